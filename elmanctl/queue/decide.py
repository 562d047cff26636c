"""Which job goes where now, and why the others wait. A pure function of the jobs and the box, fast for a thousand jobs."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from elmanctl.gpus.free import VANISHED, Reason
from elmanctl.gpus.witness import CPU
from elmanctl.queue.states import ACTIVE, HELD, QUEUED, Job

# A run asks for GPUs by UUID, so one that was replaced by another is waited for until somebody says otherwise.
GONE = ". If it stays away: `elmanctl runs cancel RUN ROW`, then `elmanctl bench SUITE --run RUN --gpus ...` with others; rows that are done stay"


@dataclass(frozen=True)
class Decision:
    """Jobs to start with the devices of each (UUIDs with commas between them, or CPU), and for every other queued job why it waits."""

    starts: list[tuple[Job, str]]
    waiting: dict[str, str]


class Backoff:
    """Holds jobs back for the time that their last attempt asked for, whatever the wall clock does meanwhile."""

    def __init__(self, clock=time.monotonic, wall=time.time):
        self._clock, self._wall = clock, wall
        self._until: dict[tuple[str, int], float] = {}

    def left(self, job: Job) -> float:
        """Return the seconds that a job still has to wait; never more than its `wait`."""
        if not job.wait:
            return 0.0
        key = (job.label, job.attempt)
        if key not in self._until:
            passed = min(max(self._wall() - job.since, 0.0), job.wait)
            self._until[key] = self._clock() + job.wait - passed
        return max(0.0, self._until[key] - self._clock())


def decide(
    jobs: dict[str, Job], reasons: Callable[[str], list[Reason]], names: dict[str, str], backoff: Backoff
) -> Decision:
    """Return what to start now, in the order in which jobs were enqueued.

    A job that takes several GPUs keeps those that are free from the jobs after it, or it would wait for ever.

    Args:
        reasons: why a GPU, by UUID, is not free; asked once for each GPU.
        names: UUID -> name for people: `GPU 3`.
        backoff: who knows how long a job that failed has to wait.
    """
    taken = {device: job.label for job in jobs.values() if job.state in ACTIVE for device in job.devices}
    used = Counter(job.spec.pool for job in jobs.values() if job.state in ACTIVE for _ in job.devices)
    asked: dict[str, list[Reason]] = {}
    starts, waiting = [], {}
    for job in jobs.values():
        if job.state == HELD:
            waiting[job.label] = f"held{f': {job.why}' if job.why else ''}"
        if job.state != QUEUED or job.spec.slurm:
            continue
        if left := backoff.left(job):
            waiting[job.label] = f"again in {left:.0f} s: {job.why}"
            continue
        pool, need = job.spec.pool, job.spec.trial.ranks if job.spec.pool else 1
        if pool is not None and pool.most is not None and used[pool] + need > pool.most:
            waiting[job.label] = f"waits for {'one' if need == 1 else need} of its {pool.most} GPUs"
            continue
        found_free, blocked, vanished = [], [], 0
        for candidate in (CPU,) if pool is None else pool.uuids:
            if candidate in taken:
                continue
            if candidate != CPU and candidate not in asked:
                asked[candidate] = reasons(candidate)
            if found := asked.get(candidate):
                blocked.append(f"{names.get(candidate, candidate)} is {found[0].text}")
                vanished += found[0].name == VANISHED
                continue
            found_free.append(candidate)
            if len(found_free) == need:
                break
        if len(found_free) < need:
            mine = [names.get(d, d) for d in ((CPU,) if pool is None else pool.uuids) if d in taken]
            busy = f"waits for {', '.join(mine)}" if mine else "waits"
            have = f" ({len(found_free)} of {need} GPUs free)" if need > 1 else ""
            gone = GONE if pool is not None and len(pool.uuids) - vanished < need else ""
            waiting[job.label] = f"{busy}{have}{': ' if blocked else ''}{'; '.join(blocked)}{gone}"
        else:
            starts.append((job, ",".join(found_free)))
            used[pool] += need
        taken |= dict.fromkeys(found_free, job.label)
    return Decision(starts, waiting)

"""The states of a job and the steps between them: this table is all there is.

    queued -> starting -> running -> ended          a trial that is tried once
    running | starting -> queued                    tried again, or given back
    queued <-> held                                 by the user
    ended -> queued                                 run anew, or gone on with

    ended -> ended                                  one that was stopped, by the user who cancels it after all

A step that the table does not have, or that names another attempt than the present one, is refused when it is written. So two
schedulers, or a supervisor that was given up and wakes late, cannot both move a job.
"""

from dataclasses import dataclass, field

import msgspec

from elmanctl.gpus.choice import Pool
from elmanctl.queue.process import Identity
from elmanctl.records import Trial

VERSION = 1
QUEUED, HELD, STARTING, RUNNING, ENDED = "queued", "held", "starting", "running", "ended"
ACTIVE = (STARTING, RUNNING)
PREFIX = "slurm:"  # of the device of an attempt that is a Slurm job; its id follows

# Step -> (states it may be taken from, state it leads to). None: a job that does not exist yet.
STEPS = {
    "enqueue": ((None, ENDED), QUEUED),
    "hold": ((QUEUED,), HELD),
    "release": ((HELD,), QUEUED),
    "start": ((QUEUED,), STARTING),
    "run": ((STARTING,), RUNNING),
    "adopt": ((RUNNING,), RUNNING),
    "ask": ((STARTING, RUNNING), None),  # the supervisor is asked to end the trial; the state stays
    "requeue": ((STARTING, RUNNING), QUEUED),
    "end": ((QUEUED, HELD, STARTING, RUNNING, ENDED), ENDED),  # from ended only to cancel what was stopped
}


class Slurm(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is asked of Slurm: a partition (empty: the default one) and more options of sbatch by their long names."""

    partition: str = ""
    options: dict[str, str] = msgspec.field(default_factory=dict)


class Spec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an attempt needs, fixed when a job is enqueued: an edited suite or source changes nothing any more.

    `folder` is relative to the run; `pool` None means the CPU, and `slurm` that Slurm chooses; `command` and `environment` start the trial (empty: the trial of
    this very installation); `wall_seconds` and `checkpoint_seconds` are 0 for no limit and no checkpoints; `backoff_seconds` the wait
    after a first failure of the machine.
    """

    trial: Trial
    folder: str
    pool: Pool | None = None
    command: tuple[str, ...] = ()
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    slurm: Slurm | None = None
    snapshot: str = ""
    wall_seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    backoff_seconds: float = 10.0


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of one job: a line of events.jsonl. `time` is seconds since 1970 and orders nothing; the file's order does."""

    v: int
    time: float
    job: str
    step: str
    attempt: int = 0
    why: str = ""
    status: str = ""
    device: str = ""
    wait: float = 0.0
    failures: int = 0
    progress: int = 0
    micro_batches: int = 1
    ask: str = ""
    spec: Spec | None = None
    supervisor: Identity | None = None
    child: Identity | None = None


@dataclass
class Job:
    """A job as its events leave it.

    Args:
        attempt: number of the present or last attempt, from 1.
        failures: attempts that failed for the machine's sake since the trial last got further; `progress` is how far, in steps.
        device: what the attempt runs on: a GPU's UUID, several with commas between them, CPU, or `slurm:<id>`.
        why: reason of the present state; `since` when it began; `wait` the seconds that it shall be waited before the next attempt.
        asked: `cancel` or `stop`, what the supervisor was asked to do; `reason` the user's for it.
    """

    label: str
    spec: Spec
    state: str = QUEUED
    attempt: int = 0
    failures: int = 0
    progress: int = 0
    micro_batches: int = 1
    status: str = ""
    why: str = ""
    device: str = ""
    since: float = 0.0
    wait: float = 0.0
    asked: str = ""
    reason: str = ""
    supervisor: Identity | None = None
    child: Identity | None = None
    starts: list[float] = field(default_factory=list)

    @property
    def devices(self) -> tuple[str, ...]:
        """UUIDs of the GPUs that the attempt has, or CPU; none while it waits."""
        return tuple(self.device.split(",")) if self.device else ()

    @property
    def stopped(self) -> bool:
        """Whether it was stopped and `bench --resume` goes on with it."""
        return self.state == ENDED and self.status == "interrupted" and self.asked != "cancel"

    @property
    def slurm(self) -> str:
        """The id of the Slurm job that the attempt is; an empty text where it is none."""
        return self.device.removeprefix(PREFIX) if self.device.startswith(PREFIX) else ""


def refusal(job: Job | None, event: Event) -> str:
    """Return why a step may not be taken now, or an empty text."""
    before, _ = STEPS[event.step]
    state = job.state if job else None
    if state not in before:
        return f"{event.job} is {state or 'unknown'}, and {event.step} is not a step from there"
    if state == ENDED and event.step == "end" and not (job.stopped and event.ask == "cancel"):
        return f"{event.job} has ended, and only what was stopped can still be cancelled"
    attempt = 0 if job is None else job.attempt
    expected = {"start": attempt + 1, "enqueue": event.attempt}.get(event.step, attempt)
    if event.attempt != expected:
        return f"{event.job} is at attempt {attempt}, and {event.step} names attempt {event.attempt}"
    return ""


def apply(jobs: dict[str, Job], event: Event) -> None:
    """Take a step that was found in the log. Where lines before it were lost, the step's own state counts."""
    job = jobs.get(event.job)
    if event.step == "enqueue" and event.spec is not None:
        # Attempts go on counting, so that one that was given up long ago is still known as an old one.
        attempt = job.attempt if job else 0
        job = jobs[event.job] = Job(event.job, event.spec, attempt=attempt, micro_batches=event.micro_batches)
    if job is None:  # its first line was lost: nothing is known of what to run
        return
    if event.step == "ask":
        if job.asked != "cancel":  # which whoever stops the run does not take back
            job.asked, job.reason = event.ask, event.why
        return
    job.state, job.since, job.why, job.wait = STEPS[event.step][1], event.time, event.why, event.wait
    if event.step == "start":
        job.attempt, job.device, job.asked, job.reason = event.attempt, event.device, "", ""
        job.supervisor = job.child = None
        job.starts.append(event.time)
    elif event.step == "run":
        job.supervisor, job.child = event.supervisor, event.child
    elif event.step == "adopt":
        job.supervisor = event.supervisor
    elif event.step == "requeue":
        job.failures, job.progress, job.micro_batches = event.failures, event.progress, event.micro_batches
        job.device = ""
    elif event.step == "end":
        job.status, job.asked = event.status, event.ask or job.asked

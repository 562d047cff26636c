"""What a Slurm job runs on its node: the supervisor of the attempt that the log has given to it.

* Slurm may start the same job anew, after a preemption or the failure of a node; submitit does so shortly before the time limit. What
  went before is then given back without losing an attempt, and the next one goes on from the newest checkpoint.
* Slurm signals every process of a job. The trial stops at SIGTERM with a checkpoint, and ignores submitit's SIGUSR2; the supervisor
  leaves the settling to whoever comes after it, since it may be killed at any moment.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from elmanctl import gpus
from elmanctl.errors import UserError
from elmanctl.gpus.free import masked_in
from elmanctl.gpus.verdict import conclude
from elmanctl.gpus.witness import CPU
from elmanctl.queue import process, settle
from elmanctl.queue.log import Queue
from elmanctl.queue.states import PREFIX, RUNNING, STARTING, Job
from elmanctl.queue.supervisor import GRACE_SECONDS, POLL_SECONDS, Supervisor, hold

KILLED = (-signal.SIGKILL, -signal.SIGTERM)  # as Slurm ends a job


class OnNode(Supervisor):
    """A supervisor inside a Slurm job."""

    def __init__(self, run: Path, label: str, attempt: int):
        super().__init__(run, label, attempt)
        self.devices = (CPU,) if self.job.spec.trial.device == "cpu" else allotted()

    def finish(self) -> None:
        """Settle the trial, unless it was stopped by Slurm: then this job may be started anew, or the scheduler sees that it is not."""
        self.end_tree()
        self.queue.refresh()
        code = self.child.returncode if self.child else None
        stopped = settle.interrupted(self.folder) or (settle.unfinished(self.folder) and code in KILLED)
        if not stopped or self.job.asked or self.limit:
            super().finish()

    def pause(self) -> None:
        """Stop the trial with a checkpoint. Writes nothing: a signal may have come while the log was being written."""
        for number, seconds in GRACE_SECONDS.items() if self.identity else ():
            process.send({self.identity.pid}, number)
            deadline = time.monotonic() + seconds
            while process.alive(self.identity) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        process.end(self.identity, self.mark)


class Attempt:
    """What submitit pickles and calls: the Slurm job of one label of a run."""

    def __init__(self):
        self._supervisor: OnNode | None = None

    def __call__(self, run: str, label: str) -> int:
        try:
            job = take_up(Path(run), label, os.environ["SLURM_JOB_ID"])
            if job is None:
                return 0
            self._supervisor = OnNode(Path(run), label, job.attempt)
            return self._supervisor.run()
        except UserError as error:
            sys.stderr.write(f"{error}\n")
            return 2

    def checkpoint(self, run: str, label: str):
        """Stop the trial; submitit calls this shortly before the time limit, then asks Slurm to start the job anew."""
        from submitit.helpers import DelayedSubmission

        if self._supervisor is not None:
            self._supervisor.pause()
        return DelayedSubmission(Attempt(), run, label)


def take_up(run: Path, label: str, number: str) -> Job | None:
    """Return the job that a Slurm job, by id, is to run now; None where there is nothing to do for it."""
    queue = Queue(run)
    with queue.locked() as file:
        job = queue.jobs.get(label)
        if job is None or job.device != f"{PREFIX}{number}" or job.state not in (STARTING, RUNNING):
            return None
        if job.state == STARTING:
            return job
        folder, device = run / job.spec.folder, job.device
        if process.alive(job.child):  # on this very machine, and out of Slurm's reach
            process.end(job.child, f"{run.resolve()}:{label}:{job.attempt}")
        became = settle.given_back(
            job, folder, f"Slurm job {number} was preempted, out of time or on a node that failed"
        )
        facts = dict(became.facts)
        if became.step == "end":
            facts["status"] = conclude(folder, facts["status"])
        queue.write_locked(file, became.step, label, **facts)
        return None if became.step == "end" else queue.write_locked(file, "start", label, device=device)


def abandoned(queue: Queue, job: Job, state: str) -> None:
    """Settle a job whose Slurm job is over without having said what became of it.

    Args:
        state: what Slurm says of it, an empty text where it knows nothing.
    """
    folder = queue.run / job.spec.folder
    held = hold(folder)
    if held is None:
        return  # its supervisor is there after all
    try:
        number = job.device.removeprefix(PREFIX)
        if state == "CANCELLED" and not job.asked:
            queue.write("ask", job.label, attempt=job.attempt, ask="cancel", why="scancel")
            job = queue.jobs[job.label]
        if settle.unfinished(folder) and not job.asked:
            became = settle.retry(job, folder, f"Slurm job {number} ended ({state or 'Slurm knows no more of it'})")
        else:
            became = settle.verdict(job, folder)
        facts = dict(became.facts)
        if became.step == "end":
            facts["status"] = conclude(folder, facts["status"])
        queue.write(became.step, job.label, attempt=job.attempt, **facts)
    finally:
        os.close(held)


def allotted() -> tuple[str, ...]:
    """Return the UUIDs of the GPUs that Slurm gave to this job; none where NVML does not see them."""
    mask = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    with contextlib.suppress(UserError):
        return tuple(gpu.uuid for gpu in gpus.gpus() if masked_in(gpu, mask))
    return ()

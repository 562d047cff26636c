"""What the scheduler does with jobs that are given to Slurm: submits them, sees to them, takes them back."""

import contextlib
import time

from elmanctl.errors import UserError
from elmanctl.queue import settle
from elmanctl.queue.log import Queue, Refused
from elmanctl.queue.slurm import Cluster
from elmanctl.queue.slurm_job import abandoned
from elmanctl.queue.states import ACTIVE, Job

AGAIN_SECONDS = 30.0  # until a job that Slurm refused is submitted again


class Engine:
    """The Slurm jobs of one run. `waiting`, where it is an argument, takes why a job waits, by label."""

    def __init__(self, queue: Queue):
        self.queue, self.cluster = queue, Cluster()
        self._again = 0.0

    def submit(self, job: Job, left: float, waiting: dict[str, str]) -> None:
        """Give a job to Slurm unless it has `left` seconds to wait; where Slurm refuses, try again after a while."""
        if left:
            waiting[job.label] = f"again in {left:.0f} s: {job.why}"
        elif time.monotonic() < self._again:
            waiting.setdefault(job.label, "waits to be submitted to Slurm")
        else:
            try:
                self.cluster.submit(self.queue, job)
            except UserError as error:
                self._again = time.monotonic() + AGAIN_SECONDS
                waiting[job.label] = str(error)

    def see(self, job: Job, waiting: dict[str, str]) -> None:
        """Look at an attempt, and settle it where Slurm has ended it."""
        try:
            state = self.cluster.state(job.slurm)
        except UserError as error:
            waiting[job.label] = str(error)
            return
        if state is not None and state.waits:
            waiting[job.label] = f"waits in Slurm as job {job.slurm}: {state.detail or state.state}"
        elif state is not None and state.runs:
            waiting.pop(job.label, None)
        elif self.queue.refresh() and job.state in ACTIVE:
            with contextlib.suppress(Refused):
                abandoned(self.queue, job, state.state if state else "")

    def take_back(self, job: Job) -> bool:
        """Queue a job again that waits in Slurm; False where it is past waiting there."""
        if not self.cluster.withdraw(job):
            return False
        facts = settle.again(job, self.queue.run / job.spec.folder, "", 0.0, job.failures).facts
        self.queue.write("requeue", job.label, attempt=job.attempt, **facts)
        return True

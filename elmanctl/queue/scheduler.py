"""Starts the jobs of a run where there is room, and sees to those that lost their supervisor. It keeps nothing that the log has not.

* One scheduler at a time has a run; others that are started on it watch, and take over when it ends.
* Killed at any moment, it leaves trials that go on under their supervisors; the next one finds them in the log.
* Ctrl-C and SIGTERM ask the trials to stop, with a checkpoint to go on from; once more ends them at once. A terminal that goes away
  (SIGHUP) stops nothing.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from elmanctl.errors import UserError
from elmanctl.gpus import locks
from elmanctl.gpus.free import Sampler
from elmanctl.gpus.witness import CPU
from elmanctl.queue import process, settle
from elmanctl.queue.decide import Backoff, decide
from elmanctl.queue.log import Queue, Refused
from elmanctl.queue.slurm_engine import Engine
from elmanctl.queue.states import ACTIVE, ENDED, QUEUED, RUNNING, STARTING, Job
from elmanctl.queue.supervisor import hold, mark

POLL_SECONDS = 0.25
SAMPLE_SECONDS = 1.0  # between looks at the GPUs while a job waits for one
ADOPT_SECONDS = 5.0  # between attempts to give one job a new supervisor
KILL_SECONDS = 20.0
LOCK = ".scheduler"


def spawn(run: Path, job: Job, held: Sequence[int] = ()) -> subprocess.Popen:
    """Start a supervisor for a job's present attempt, in a session of its own; what it says goes to supervisor.log.

    Args:
        held: open files of the GPUs' locks, which the supervisor and the trial go on holding.
    """
    folder = run / job.spec.folder
    folder.mkdir(parents=True, exist_ok=True)
    call = [sys.executable, "-m", "elmanctl.queue.supervisor", str(run), job.label, str(job.attempt)]
    with (folder / "supervisor.log").open("ab") as log:
        return subprocess.Popen(
            call + [str(lock) for lock in held],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=held,
            start_new_session=True,
        )


class Scheduler:
    """Runs the jobs of one run.

    Args:
        queue: the run's.
        observe: called with the scheduler after every look at the queue, for display.
        sampler: looks at the GPUs; made when the first job wants one.
    """

    def __init__(self, queue: Queue, observe: Callable[["Scheduler"], None] = lambda now: None, sampler=None):
        self.queue, self._observe = queue, observe
        self.sampler: Sampler | None = sampler
        self.waiting: dict[str, str] = {}
        self.chief = ""  # who schedules this run, where it is not this process
        self._backoff = Backoff()
        self._slurm = Engine(queue)
        self._children: dict[str, subprocess.Popen] = {}
        self._codes: dict[str, int] = {}  # exit codes of supervisors that have ended
        self._adopted: dict[str, float] = {}
        self._stuck: set[str] = set()  # jobs that nothing can be done for now
        self._next_sample = 0.0
        self._lock: int | None = None

    def run(self, labels: set[str]) -> None:
        """Go on until these jobs have ended. KeyboardInterrupt (also made of SIGTERM) stops the trials and is raised again."""
        with process.signals():
            try:
                while True:
                    self.tick()
                    if self.done(labels):
                        return
                    time.sleep(POLL_SECONDS)
            except KeyboardInterrupt:
                if self._lock is not None:
                    self.stop()
                raise
            finally:
                if self._lock is not None:
                    os.close(self._lock)
                    self._lock = None
                self._observe(self)

    def done(self, labels: set[str]) -> bool:
        """Return whether jobs have ended, and their supervisors too where they are ours."""
        jobs = self.queue.jobs
        return all(jobs[name].state == ENDED for name in labels if name in jobs) and not self._children

    def tick(self) -> None:
        """Look once: take over the run if nobody has it, see to lost trials, start what can be started."""
        self._reap()
        self.queue.refresh()
        if self._lock is None:
            self._lock = locks.take(self.queue.run / LOCK, f"run {self.queue.run.name}")
        self.chief = "" if self._lock is not None else str(locks.held(self.queue.run / LOCK) or "")
        if self._lock is not None:
            self.fill()
            self.recover()
        self._observe(self)

    def _reap(self) -> None:
        for label in [name for name, child in self._children.items() if child.poll() is not None]:
            self._codes[label] = self._children.pop(label).returncode

    def fill(self) -> None:
        """Start every job that can be started now."""
        queued = [job for job in self.queue.jobs.values() if job.state == QUEUED]
        if any(job.spec.pool for job in queued):
            self.sample()
        names = {gpu.uuid: f"GPU {gpu.index}" for gpu in self.sampler.box} if self.sampler else {}
        decision = decide(self.queue.jobs, self._reasons, names, self._backoff)
        self.waiting = decision.waiting
        for job, device in decision.starts:
            self.launch(job, device)
        for job in queued:
            if job.spec.slurm:
                self._slurm.submit(job, self._backoff.left(job), self.waiting)

    def sample(self) -> None:
        """Look at the GPUs, not more often than makes sense."""
        if self.sampler is None:
            self.sampler = Sampler().settle()
        if time.monotonic() >= self._next_sample:
            self._next_sample = time.monotonic() + SAMPLE_SECONDS
            self.sampler.sample()

    def _reasons(self, uuid: str) -> list:
        return self.sampler.reasons(uuid) if self.sampler else []

    def launch(self, job: Job, device: str) -> None:
        """Start a job on its devices, once more made sure that they are free; on a conflict the job stays queued."""
        held: list[int] = []
        try:
            if device != CPU:
                self.sampler.sample()
            for uuid in device.split(",") if device != CPU else ():
                if found := self.sampler.reasons(uuid):
                    self.waiting[job.label] = f"waits: {found[0].text}"
                    return
                lock = locks.acquire(uuid, f"{self.queue.run.name}, {job.label}")
                if lock is None:
                    self.waiting[job.label] = f"waits: locked by elmanctl ({locks.holder(uuid) or 'just now'})"
                    return
                held.append(lock)
            job = self.queue.write("start", job.label, device=device)
            self._children[job.label] = spawn(self.queue.run, job, held)
        except Refused:
            pass  # held or cancelled in this moment
        except UserError as error:  # nothing was begun
            self._trouble(job, error)
        except OSError as error:  # no supervisor: it is given up as one that failed, and tried again after a while
            self._codes[job.label] = 1
            self._trouble(job, error)
        finally:
            for lock in held:
                locks.release(lock)

    def _trouble(self, job: Job, error: Exception) -> None:
        """Let a job wait for a disk that is full or cannot be written: it may be freed before the morning."""
        self.waiting[job.label] = f"waits: {error}"
        self._stuck.add(job.label)

    def recover(self) -> None:
        """Give running trials without a supervisor a new one, and queue again what was never started."""
        for job in list(self.queue.jobs.values()):
            if job.state in ACTIVE and job.label not in self._children:
                self._stuck.discard(job.label)
                try:
                    self.see_to(job)
                except (UserError, OSError) as error:
                    self._trouble(job, error)

    def see_to(self, job: Job) -> None:
        """See to one job that has no supervisor of ours."""
        if job.slurm:
            self._slurm.see(job, self.waiting)
        elif process.elsewhere(job.supervisor):
            self.waiting[job.label] = f"runs on another machine ({job.supervisor.boot.split(' ')[0]})"
        elif job.state == STARTING:
            self.give_up(job)
        elif not process.alive(job.supervisor):
            self.adopt(job)

    def give_up(self, job: Job) -> None:
        """Queue a job again whose supervisor never came; one that still comes finds the job at another step and leaves."""
        held = hold(self.queue.run / job.spec.folder)
        if held is None:
            return  # it came after all
        try:
            folder = self.queue.run / job.spec.folder
            if self._codes.get(job.label, 0) > 0:  # ours, and it said why
                verdict = settle.retry(job, folder, f"the supervisor failed; {folder / 'supervisor.log'} says why")
            else:
                verdict = settle.again(job, folder, "the supervisor ended before the trial began", 0.0, job.failures)
            with contextlib.suppress(Refused):
                self.queue.write(verdict.step, job.label, attempt=job.attempt, **verdict.facts)
            self._codes.pop(job.label, None)
        finally:
            os.close(held)

    def adopt(self, job: Job) -> None:
        """Start a supervisor for a trial that lost its own; it settles the trial if that has ended too."""
        now = time.monotonic()
        if now >= self._adopted.get(job.label, 0.0):
            self._adopted[job.label] = now + ADOPT_SECONDS
            self._children[job.label] = spawn(self.queue.run, job)

    def stop(self) -> None:
        """Ask every running trial to stop and wait until it has; a second interrupt ends them at once."""
        with contextlib.suppress(KeyboardInterrupt):
            self._ask("stop")
            return
        for job in self._active():
            if job.slurm:
                self._slurm.cluster.cancel(job.slurm)
            elif job.child is not None:
                process.end(job.child, mark(self.queue.run, job.label, job.attempt))
        self._wait(time.monotonic() + KILL_SECONDS)

    def _ask(self, what: str) -> None:
        for job in self._active():
            with contextlib.suppress(Refused):
                if not (job.slurm and self._slurm.take_back(job)):
                    self.queue.write("ask", job.label, attempt=job.attempt, ask=what)
        self._wait(time.monotonic() + 3600)

    def _wait(self, deadline: float) -> None:
        while (self._active() or self._children) and time.monotonic() < deadline:
            self._reap()
            self.queue.refresh()
            self.recover()
            self._observe(self)
            time.sleep(POLL_SECONDS)

    def _active(self) -> list[Job]:  # nothing runs for one that was started and cannot be begun
        begun = (job for job in self.queue.jobs.values() if job.state in ACTIVE)
        return [job for job in begun if job.state == RUNNING or job.label not in self._stuck]

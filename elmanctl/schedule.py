"""Runs trials in child processes, one at a time on each device.

* Each trial is `python -m elmanctl.trial FOLDER` in a process group of its own, with its output in FOLDER/log.txt. What it
  found is read from the records it wrote, never from that output.
* Ctrl-C and SIGTERM end every child's process group; what was finished stays.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from elmanctl import gpus
from elmanctl.errors import UserError
from elmanctl.files import read_json, write_json
from elmanctl.gpus import free
from elmanctl.records import Result, Step, Trial, read_steps

POLL_SECONDS = 0.25
# A device that was just left, or that somebody else took, is asked again after this long.
BUSY_SECONDS = 5.0
# How long a child has to write its records after each signal.
GRACE_SECONDS = {signal.SIGINT: 20.0, signal.SIGTERM: 5.0, signal.SIGKILL: 5.0}


@dataclass(frozen=True)
class Device:
    """Where one trial at a time can run.

    Args:
        label: for people: `CPU`, `GPU 3`.
        environment: variables that confine a child to it.
        busy: asked just before a launch: why it cannot be used now, or None.
    """

    label: str
    environment: dict[str, str] = field(default_factory=dict)
    busy: Callable[[], str | None] = lambda: None


def cpu() -> Device:
    """Return this machine's CPU as one device; GPUs are hidden from the child.

    One thread unless the user says otherwise: results then do not depend on the number of cores, and threads that spin for each
    other on a busy machine made small models 14 times slower.
    """
    return Device("CPU", {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")})


def gpu(seen: gpus.Gpu) -> Device:
    """Return a GPU as a device, named to the child by UUID."""

    def busy() -> str | None:
        now = next((g for g in gpus.gpus() if g.uuid == seen.uuid), None)
        found = free.reasons(now) if now else [free.Reason("vanished", "no longer visible to NVML")]
        return found[0].text if found else None

    return Device(f"GPU {seen.index}", {"CUDA_VISIBLE_DEVICES": seen.uuid, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, busy)


@dataclass(frozen=True)
class Job:
    """A trial and the folder that it runs in."""

    trial: Trial
    folder: Path


@dataclass
class Running:
    """A trial's child process."""

    job: Job
    device: Device
    process: subprocess.Popen
    started: float


def launch(job: Job, device: Device) -> subprocess.Popen:
    """Start a trial in a process group of its own, its output going to log.txt."""
    write_json(job.folder / "trial.json", job.trial)
    with (job.folder / "log.txt").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "elmanctl.trial", str(job.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **device.environment, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )


class Schedule:
    """Trials waiting, running and finished.

    Args:
        jobs: in the order in which to start them.
        devices: each runs one job at a time.
        observe: called with the schedule after every look at the children, for display.
        start: launches a job, `launch` by default.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        devices: list[Device],
        observe: Callable[["Schedule"], None] = lambda schedule: None,
        start: Callable[[Job, Device], subprocess.Popen] | None = None,
    ):
        self.waiting = deque(jobs)
        self.devices = devices
        self.running: list[Running] = []
        self.finished: list[tuple[Job, Result]] = []
        self.held: dict[str, str] = {}  # device label -> why it is not used now
        self._observe, self._start = observe, start or launch
        self._ask_again: dict[str, float] = {}

    def run(self) -> None:
        """Run every job. KeyboardInterrupt (also made of SIGTERM) ends the children and is raised again."""
        with _terminate_as_interrupt():
            try:
                while self.waiting or self.running:
                    self._reap()
                    self._fill()
                    self._observe(self)
                    time.sleep(POLL_SECONDS if self.running or self.waiting else 0)
            except BaseException:
                self._end_all()
                raise
            finally:
                self._observe(self)

    def _fill(self) -> None:
        taken = {running.device.label for running in self.running}
        now = time.monotonic()
        for device in self.devices:
            if not self.waiting or device.label in taken or self._ask_again.get(device.label, 0) > now:
                continue
            if reason := device.busy():
                self.held[device.label] = reason
                self._ask_again[device.label] = now + BUSY_SECONDS
                continue
            self.held.pop(device.label, None)
            job = self.waiting.popleft()
            self.running.append(Running(job, device, self._start(job, device), now))

    def _reap(self) -> None:
        for running in [r for r in self.running if r.process.poll() is not None]:
            self.running.remove(running)
            _end_group(running.process)
            self.finished.append((running.job, settle(running.job, running.process.returncode)))

    def _end_all(self) -> None:
        """Ask each child's group to stop, insist after a while, and settle what they left."""
        for ask, seconds in GRACE_SECONDS.items():
            for running in self.running:
                if running.process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(running.process.pid, ask)
            deadline = time.monotonic() + seconds
            # A second Ctrl-C cuts the wait short; the next, stronger signal follows at once.
            with contextlib.suppress(KeyboardInterrupt):
                while any(r.process.poll() is None for r in self.running) and time.monotonic() < deadline:
                    time.sleep(0.05)
        for running in self.running:
            _end_group(running.process)
            self.finished.append((running.job, settle(running.job, running.process.poll(), interrupted=True)))
        self.running.clear()


def _end_group(process: subprocess.Popen) -> None:
    """End whatever a trial has left running in its process group, which could hold device memory."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def settle(job: Job, code: int | None, interrupted: bool = False) -> Result:
    """Return the result that a child wrote; write one for a child that ended without.

    Args:
        code: its exit status, negative for a signal.
        interrupted: whether we asked it to stop.
    """
    path = job.folder / "result.json"
    if path.exists():
        return read_json(path, Result)
    steps = _steps(job.folder)
    how = f"by {signal.Signals(-code).name}" if code and code < 0 else f"with exit code {code}"
    result = Result(
        status="interrupted" if interrupted else "failed",
        steps=len(steps),
        tokens=sum(step.tokens for step in steps),
        seconds=steps[-1].seconds if steps else 0.0,
        message=f"The trial ended {how} and left no result. Its output is in {job.folder / 'log.txt'}.",
    )
    write_json(path, result)
    return result


def _steps(folder: Path) -> list[Step]:
    try:
        return read_steps(folder / "steps.jsonl")
    except (FileNotFoundError, UserError):  # never started, or damaged by whatever ended it
        return []


@contextlib.contextmanager
def _terminate_as_interrupt():
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt for the time of a run, so that no child is left behind."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    try:
        before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    except ValueError:  # not the main thread: whoever runs us there handles signals
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""One attempt of one trial: `python -m elmanctl.queue.supervisor RUN LABEL ATTEMPT [LOCK ...]`, in a session of its own.

* It outlives the scheduler and the terminal. The trial in turn outlives it: whoever finds a running trial without a supervisor
  starts another one, which adopts the trial by pid, start and boot.
* The trial waits behind a gate until the log knows its pid. If the supervisor dies before that, the gate closes and the trial ends.
* The locks of its GPUs come in as open files and go on to the trial, so they are held as long as either lives.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from elmanctl.errors import UserError
from elmanctl.files import write_json
from elmanctl.gpus import locks, verdict, witness
from elmanctl.queue import process, settle, snapshot
from elmanctl.queue.log import Queue, Refused
from elmanctl.queue.states import PREFIX, RUNNING, STARTING
from elmanctl.queue.watchdog import Watchdog
from elmanctl.runlog import ATTEMPTS, RESULT, STEPS, TRIAL

POLL_SECONDS = 0.1
ASK_SECONDS = 0.5  # between looks at the log and the limits
TOUCH_SECONDS = 600.0  # between renewals of the lock's text
DUMP_SECONDS = 2.0  # for a hung trial to write its stacks
RETURN_SECONDS = 10.0  # for the driver to give the memory of an ended process back
# How long a trial has to write its records and a checkpoint after each signal.
GRACE_SECONDS = {signal.SIGINT: 60.0, signal.SIGTERM: 5.0}
# Waits for one line, then becomes the trial; without the line (the supervisor died) it ends.
# Slurm sends SIGUSR2 to every process of a job, which is meant for the supervisor.
GATE = ("/bin/sh", "-c", "trap '' USR2; read line || exit 75; exec \"$@\"", "sh")
HELD = ".supervisor"


class Supervisor:
    """Starts or adopts a trial, watches it, and settles it.

    Args:
        run: the run's folder; label: the job's; attempt: the one this process is for; held: open files of the locks
            of its GPUs.
    """

    def __init__(self, run: Path, label: str, attempt: int, held: Sequence[int] = ()):
        self.queue = Queue(run).refresh()
        self.label, self.attempt, self.locks = label, attempt, tuple(held)
        self.job = self.queue.jobs[label]
        self.devices = self.job.devices
        self.folder = Path(run) / self.job.spec.folder
        self.mark = mark(run, label, attempt)
        self.child: subprocess.Popen | None = None
        self.identity: process.Identity | None = None
        self.limit = self.conflict = ""

    def run(self) -> int:
        """Do all of it. Returns 0, also where another supervisor was first."""
        held = hold(self.folder)
        if held is None:
            return 0
        try:
            self.queue.refresh()
            self.job = self.queue.jobs[self.label]
            if self.job.attempt != self.attempt or self.job.state not in (STARTING, RUNNING):
                return 0
            if self.job.state == STARTING:
                self.start()
            else:
                self.identity = self.job.child
                self.job = self.queue.write("adopt", self.label, attempt=self.attempt, supervisor=process.me())
            self.watch()
            self.finish()
        except Refused:  # settled by somebody else, or given up on before it began
            self.end_tree()
        finally:
            os.close(held)
        return 0

    def start(self) -> None:
        """Start the trial behind its gate, let the log know it, and open the gate."""
        set_aside(self.folder, self.attempt)
        spec = self.job.spec
        write_json(self.folder / TRIAL, msgspec.structs.replace(spec.trial, micro_batches=self.job.micro_batches))
        command = [*(spec.command or (sys.executable, "-m", "elmanctl.trial")), str(self.folder)]
        if not spec.command:
            command += ["--go-on", "--checkpoint-seconds", f"{spec.checkpoint_seconds:g}"]
        sources = snapshot.environment(snapshot.place(self.queue.run.parent, spec.snapshot)) if spec.snapshot else {}
        environment = {
            **os.environ,
            **sources,
            **spec.environment,
            **confinement(witness.CPU if self.devices == (witness.CPU,) else self.job.device),
            "PYTHONUNBUFFERED": "1",
        }
        with (self.folder / "log.txt").open("wb") as log:
            self.child = subprocess.Popen(
                [*GATE, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment, process.MARK: self.mark},
                pass_fds=self.locks,
                start_new_session=True,
            )
        self.identity = process.of(self.child.pid)
        self.job = self.queue.write(
            "run", self.label, attempt=self.attempt, supervisor=process.me(), child=self.identity
        )
        with contextlib.suppress(BrokenPipeError), self.child.stdin as gate:
            gate.write(b"go\n")

    def running(self) -> bool:
        """Return whether the trial's own process still runs."""
        return self.child.poll() is None if self.child else process.alive(self.identity)

    def watch(self) -> None:
        """Wait for the end of the trial, or bring it about: on request, at a limit, or where the GPU has another user."""
        self.note()
        dog = Watchdog(self.folder / STEPS, self.job.spec.wall_seconds)
        eye = witness.Witness(self.folder, self.devices, lambda: process.members(self.identity, self.mark))
        look = touch = time.monotonic()
        while self.running():
            now = time.monotonic()
            self.conflict = eye.look()
            if now >= look:
                look = now + ASK_SECONDS
                self.queue.refresh()
                self.limit = dog.limit()
            if now >= touch + TOUCH_SECONDS:
                touch = now
                self.note()
            if self.limit or self.conflict or self.job.asked:
                self.stop(dump=bool(self.limit), gently=bool(self.job.asked))
                return
            time.sleep(POLL_SECONDS)

    def note(self) -> None:
        """Write into the locks that this process answers for them."""
        for lock in self.locks:
            locks.note(lock, f"{self.queue.run.name}, {self.label}")

    def stop(self, dump: bool, gently: bool) -> None:
        """End the trial: with its stacks in the log if `dump`, in good order if `gently` and it obeys."""
        if dump and process.alive(self.identity):
            process.send({self.identity.pid}, signal.SIGUSR1)
            time.sleep(DUMP_SECONDS)
        for number, seconds in GRACE_SECONDS.items() if gently else ():
            deadline = time.monotonic() + seconds
            process.send({self.identity.pid} if self.running() else set(), number)
            while self.running() and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        self.end_tree()

    def end_tree(self) -> None:
        """Kill what is left of the attempt."""
        if self.identity is not None:
            process.end(self.identity, self.mark)
        if self.child is not None:
            self.child.wait()

    def finish(self) -> None:
        """Clear up after the trial and write what became of it."""
        self.end_tree()
        left = witness.memory_left(self.devices, RETURN_SECONDS)
        code = self.child.returncode if self.child else None
        self.queue.refresh()  # what was asked at the last moment
        became = settle.verdict(self.job, self.folder, code, self.limit, self.conflict)
        facts = dict(became.facts)
        if became.step == "end":
            facts["status"] = verdict.conclude(self.folder, facts["status"], left)
        if left:
            facts["why"] = f"{facts['why']} {left}".strip()
        self.queue.write(became.step, self.label, attempt=self.attempt, **facts)


def mark(run: Path, label: str, attempt: int) -> str:
    """Return what every process of an attempt carries in its environment."""
    return f"{Path(run).resolve()}:{label}:{attempt}"


def confinement(device: str) -> dict[str, str]:
    """Return the variables that confine a trial to GPUs, by UUID, or to the CPU.

    One thread of arithmetic unless the user says otherwise: first weights and CPU results then do not depend on the number of cores, and threads
    that spin for each other on a busy machine made small models 14 times slower. In a Slurm job Slurm has confined it to GPUs.
    """
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    if device == witness.CPU:
        return threads | {"CUDA_VISIBLE_DEVICES": ""}
    if device.startswith(PREFIX):
        return threads
    return threads | {"CUDA_VISIBLE_DEVICES": device, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def hold(folder: Path) -> int | None:
    """Take the place of a trial's only supervisor and return its open file; None where another one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / HELD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def set_aside(folder: Path, attempt: int) -> None:
    """Move the result and output of the attempt before out of the way; steps and checkpoints stay, to go on from."""
    names = (RESULT, "log.txt", *((witness.SAMPLES,) if not settle.progress(folder) else ()))
    for name in names:
        if (folder / name).exists():
            (folder / ATTEMPTS).mkdir(exist_ok=True)
            (folder / name).rename(folder / ATTEMPTS / f"{attempt - 1}.{name}")


def main(arguments: list[str]) -> int:
    """Supervise the attempt that the arguments name."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # Meant for the scheduler; `elmanctl runs cancel` reaches the trial. Not SIG_IGN, which the trial would inherit.
        signal.signal(number, lambda number, frame: None)
    run, label, attempt, *rest = arguments
    try:
        return Supervisor(Path(run), label, int(attempt), [int(number) for number in rest]).run()
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

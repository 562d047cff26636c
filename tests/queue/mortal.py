"""Kill a process at each of its writes in turn, and see what those after it make of it: `mortal.py SCENARIO FOLDER`.

A write is: a file opened to be written, renamed, removed, made or synced; a folder made or removed; none, half or all of the bytes of a line
appended to a log; a child started; a gate opened. Each scenario begins anew in a folder of its own for each of them, dies there by
SIGKILL, and goes on undisturbed. Processes are forks of this one, so that none has to import anything.

Prints a JSON line for each place: `place` (number and kind of the write), and `wrong`, what is then not as it should be.
"""

import contextlib
import itertools
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

from elmanctl.gpus import free, witness
from elmanctl.queue import log, scheduler, supervisor

EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "subprocess.Popen")


class Death:
    """Ends this process at one of its writes, by number or by kind, once it is armed; forks begin without."""

    def __init__(self):
        self.place, self.count, self.note = None, 0, None

    def arm(self, place: int | str, note: Path) -> None:
        self.note = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.place, self.count = place, 0

    def strike(self, kind: str) -> bool:
        """Count a write, and return whether it is the last: the caller then does a part of it and calls `now`."""
        if self.place is None:
            return False
        self.count += 1
        return self.place in (self.count, kind) and bool(REAL.write(self.note, kind.encode()))

    def at(self, kind: str) -> None:
        if self.strike(kind):
            self.now()

    @staticmethod
    def now() -> None:
        os.kill(os.getpid(), signal.SIGKILL)


death = Death()
REAL = SimpleNamespace(write=os.write, fsync=os.fsync)


def audited(event: str, arguments: tuple) -> None:
    if death.place is None:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, int) or str(path).startswith(("/dev", "/proc")) or not flags & (os.O_WRONLY | os.O_RDWR):
            return
        death.at(f"open {Path(os.fsdecode(path)).name}")
    elif event in EVENTS:
        death.at(event)


def torn(write, text: bytes, kind: str):
    """Append bytes: none, half, or all of them before the end."""
    death.at(f"{kind}, nothing written")
    if death.strike(f"{kind}, half written"):
        write(text[: len(text) // 2])
        death.now()
    done = write(text)
    death.at(f"{kind}, written")
    return done


def plant() -> None:
    """Let everything that is written pass by `death`."""
    from elmanctl import runlog

    sys.addaudithook(audited)

    def fsync(file):
        death.at("fsync")
        REAL.fsync(file)

    os.fsync = fsync
    log.os = SimpleNamespace(**vars(os))
    log.os.write = lambda file, text: torn(lambda part: REAL.write(file, part), text, "event")
    append = runlog.Lines.append

    def line(self, record):
        whole, self._file = self._file, SimpleNamespace(write=lambda text: torn(whole.write, text, "line"))
        try:
            append(self, record)
        finally:
            self._file = whole

    runlog.Lines.append = line
    watch = supervisor.Supervisor.watch

    def watched(self):
        death.at("the gate is open")
        watch(self)

    supervisor.Supervisor.watch = watched
    scheduler.POLL_SECONDS = supervisor.POLL_SECONDS = scheduler.SAMPLE_SECONDS = 0.01
    free.SAMPLE_SECONDS, witness.SAMPLE_SECONDS = 0.0, 0.05
    supervisor.ASK_SECONDS, scheduler.ADOPT_SECONDS = 0.05, 0.1


class Fork:
    """A process as subprocess.Popen shows it, that runs a function.

    Args:
        dies: at which of its writes, and `note` where to say so; 0: it lives. keep: open files that it inherits.
    """

    def __init__(self, function, dies: int | str = 0, note: Path | None = None, keep: tuple[int, ...] = ()):
        self.returncode = None
        self.pid = os.fork()
        if self.pid:
            return
        death.place = None
        code = 70
        try:
            os.setsid()
            for file in set(range(3, 100)) - set(keep):
                with contextlib.suppress(OSError):
                    os.close(file)
            if dies:
                death.arm(dies, note)
            code = function() or 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            death.place = None
            os._exit(code)

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self):
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


def supervised(*dying: int | str, note: Path | None = None):
    """Return a stand-in for scheduler.spawn: the first supervisors die at these of their writes, the others live."""
    left = list(dying)

    def spawn(run, job, held=()):
        (run / job.spec.folder).mkdir(parents=True, exist_ok=True)
        call = [str(run), job.label, str(job.attempt), *map(str, held)]
        dies = left.pop(0) if left else 0
        return Fork(lambda: supervisor.main(call), dies, note, tuple(held))

    return spawn


def main(name: str, folder: Path) -> None:
    import mortal_scenarios

    plant()
    scenario = mortal_scenarios.SCENARIOS[name]
    for number in itertools.count(1):
        place, note = folder / f"{number}" / "r", folder / f"{number}.note"
        place.mkdir(parents=True)
        scenario.prepare(place)
        scenario.mortal(place, number, note)
        kind = note.read_text() if note.exists() else ""
        if not kind:
            break
        scenario.finish(place)
        print(json.dumps({"place": f"{number}: {kind}", "wrong": scenario.wrong(place)}), flush=True)


if __name__ == "__main__":
    # Under its own name, so that the scenarios share the one Death.
    import mortal

    mortal.main(sys.argv[1], Path(sys.argv[2]))

"""Run a scheduler or a supervisor that kills itself at one place: crash.py PLACE scheduler RUN, or crash.py PLACE supervisor ARGUMENTS.

Places: `write N` (half of the N-th step that the process writes is in the log), `popen` (a child was just started), `gate` (it is open).
"""

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

from elmanctl.queue import log, scheduler, supervisor


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def after(function):
    def wrapped(*arguments, **named):
        function(*arguments, **named)
        die()

    return wrapped


def plant(place):
    kind, *rest = place.split()
    if kind == "write":
        number, count = int(rest[0]), [0]

        def write(file, text):
            count[0] += 1
            if count[0] < number:
                return os.write(file, text)
            os.write(file, text[: len(text) // 2])
            die()

        log.os = SimpleNamespace(**{**vars(os), "write": write})
    elif kind == "popen":
        real = supervisor.subprocess.Popen
        fake = {
            "Popen": after(real),
            **{name: getattr(supervisor.subprocess, name) for name in ("PIPE", "STDOUT", "DEVNULL")},
        }
        scheduler.subprocess = supervisor.subprocess = SimpleNamespace(**fake)
    elif kind == "gate":
        supervisor.Supervisor.watch = lambda self: die()


if __name__ == "__main__":
    plant(sys.argv[1])
    if sys.argv[2] == "supervisor":
        sys.exit(supervisor.main(sys.argv[3:]))
    queue = log.Queue(Path(sys.argv[3])).refresh()
    scheduler.Scheduler(queue).run(set(queue.jobs))

"""A forked process for what may hang, crash, or write where it likes.

Its time is counted on the processor's clock, so that a machine with more to do than cores makes no hang out of what is slow.
"""

import contextlib
import faulthandler
import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from elmanctl.errors import UserError

MEMORY = 1 << 33  # bytes of address space beyond what is mapped already; past them an allocation fails
PATIENCE, LEAST = (
    12.0,
    60.0,
)  # what waits for nothing: so many times its time on the wall's clock, and at least so many seconds

Say = Callable[[dict], None]


@dataclass(frozen=True)
class Ended:
    """What a child said, how it ended (`end`, `hangs` or `crashes`), and its seconds of processor time."""

    said: list[dict]
    how: str
    seconds: float


def isolated(work: Callable[[Say], None], limit: float, wall: float | None = None) -> Ended:
    """Fork, run `work(say)` in the child, and wait for its end.

    Args:
        limit: seconds of processor time, rounded up to whole ones, after which it is ended.
        wall: seconds after which it is ended whatever it did; by default PATIENCE times the limit.
    Raises:
        UserError: where the machine does not let a process be limited.
    """
    limit = max(1, -int(-limit // 1))
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _child(work, write, limit)
    os.close(write)
    deadline = time.monotonic() + (wall or max(LEAST, PATIENCE * limit))
    said, buffer, late, usage, status = [], b"", True, None, 0
    try:
        while (left := deadline - time.monotonic()) > 0 and select.select([read], [], [], left)[0]:
            part = os.read(read, 1 << 16)
            if not part:
                late = False
                break
            *lines, buffer = (buffer + part).split(b"\n")
            said += map(json.loads, lines)
    finally:
        with contextlib.suppress(ProcessLookupError):
            if late:
                os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        os.close(read)
    if said and "unfit" in said[0]:
        raise UserError(
            f"No process could be limited for a mutant: {said[0]['unfit']}. Mutants hang and fill memory, so that none runs without "
            "limits. See ulimit -v and ulimit -t."
        )
    hung = late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU)
    how = "hangs" if hung else "end" if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0 else "crashes"
    return Ended(said, how, usage.ru_utime + usage.ru_stime)


def _mapped() -> int:
    """Return this process's address space in bytes: torch with CUDA alone maps tens of GB, a context of a device over 100."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _limit(what: int, soft: int, hard: int) -> None:
    """Limit a resource, and not above the limit that this process is under already."""
    most = resource.getrlimit(what)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(what, (soft, hard))


def _child(work: Callable[[Say], None], write: int, limit: int) -> None:
    """Run in the child, which never returns. Its words go to nobody: a mutant's runtime may complain at length."""
    status = 1

    def say(message: dict) -> None:
        os.write(write, json.dumps(message).encode() + b"\n")

    try:
        try:
            faulthandler.disable()
            room = _mapped() + MEMORY
            _limit(resource.RLIMIT_CORE, 0, 0)
            _limit(resource.RLIMIT_AS, room, room)
            _limit(resource.RLIMIT_CPU, limit, limit + 2)
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
        except (OSError, ValueError) as error:  # of the machine, and no mutant's fault
            say({"unfit": str(error)})
            return
        work(say)
        status = 0
    finally:
        os._exit(status)

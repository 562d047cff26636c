"""Processes by pid, start and boot, so that a number that was given out again is not taken for the old process; ending whole trees; signals."""

import contextlib
import os
import signal
import socket
import time
from functools import cache
from pathlib import Path

import msgspec

MARK = "ELMANCTL_ATTEMPT"  # environment variable that every process of an attempt inherits
PROC = Path("/proc")


class Identity(msgspec.Struct, frozen=True):
    """A process: pid, start in clock ticks after boot (which no clock change moves), and the machine with its boot."""

    pid: int
    start: int
    boot: str


@cache
def boot() -> str:
    """Return a name of this machine's present boot."""
    try:
        text = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        text = "unknown"
    return f"{socket.gethostname()} {text}"


def _stat(pid: int) -> tuple[str, int] | None:
    """Return state and start of a process, None if there is none."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


def of(pid: int) -> Identity | None:
    """Return the identity of a living process."""
    found = _stat(pid)
    return Identity(pid, found[1], boot()) if found and found[0] not in "ZX" else None


def me() -> Identity:
    """Return the identity of this process."""
    return of(os.getpid())


def alive(who: Identity | None) -> bool:
    """Return whether the very process still runs; one that has ended and was not waited for does not."""
    return who is not None and who.boot == boot() and of(who.pid) == who


def elsewhere(who: Identity | None) -> bool:
    """Return whether a process belongs to another machine, where this one cannot see it."""
    return who is not None and who.boot.split(" ")[0] != socket.gethostname()


def members(leader: Identity | None, mark: str) -> set[int]:
    """Return the pids of an attempt: the session that its first process leads, and all that carry its mark.

    The kernel gives a number out again only after the last member of its session has ended. So where the number now belongs to a
    process of another start, that one is a stranger and leads a session of strangers.

    Args:
        leader: the trial, started in a session of its own.
        mark: value of MARK in the environment, found also in processes that made a session of their own.
    """
    sought = f"{MARK}={mark}".encode()
    now = _stat(leader.pid) if leader else None
    session = leader.pid if leader and leader.boot == boot() and (now is None or now[1] == leader.start) else None
    found = set()
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or (pid := int(entry.name)) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # ended meanwhile, or of another user
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] in "ZX":
                continue
            if int(fields[3]) == session or sought in (entry / "environ").read_bytes().split(b"\0"):
                found.add(pid)
    return found


def send(pids: set[int], number: int) -> None:
    """Send a signal to processes that may have ended already."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def end(leader: Identity | None, mark: str, seconds: float = 5.0) -> set[int]:
    """Kill every process of an attempt and return those that are still there after a while (stuck in the kernel)."""
    deadline = time.monotonic() + seconds
    while left := members(leader, mark):
        send(left, signal.SIGKILL)
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return left


@contextlib.contextmanager
def signals():
    """For the time of a run: SIGTERM interrupts as Ctrl-C does, and a terminal that goes away is no longer written to."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    def deaf(number, frame):
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)

    try:
        before = {
            number: signal.signal(number, does) for number, does in ((signal.SIGTERM, interrupt), (signal.SIGHUP, deaf))
        }
    except ValueError:  # not the main thread: whoever runs us there handles signals
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

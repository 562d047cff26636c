"""One OS lock for each GPU, honoured across users, and the machine's list of GPUs to stay off.

* A lock is `flock` on `<UUID>.lock` in a folder of the machine that everybody may write to. Its holder passes the open file to the
  processes that use the GPU; the kernel releases the lock when the last of them has ended, however it ended.
* The text in the file says who holds it and is only for people: without the lock it means nothing.
* `<UUID>.off` keeps elmanctl, of every user, off a GPU until the file is removed.
"""

import contextlib
import fcntl
import json
import os
import socket
import stat
import time
from pathlib import Path

import msgspec

from elmanctl.errors import UserError
from elmanctl.files import DAMAGED

SHARED = 0o1777  # as /tmp: everybody writes, nobody removes the files of others
RETRIES, RETRY_SECONDS = 3, 0.02  # somebody may be looking whether it is locked


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a lock, for people: user, pid, machine, what for, and since when (seconds since 1970)."""

    user: str = "somebody"
    pid: int = 0
    host: str = ""
    what: str = ""
    since: float = 0.0

    def __str__(self) -> str:
        since = time.strftime("%H:%M", time.localtime(self.since))
        return f"{self.user}, pid {self.pid}, {self.what or 'elmanctl'}, since {since}"


def folder() -> Path:
    """Return the machine's folder of locks, made if need be: ELMANCTL_LOCKS, else below /run/lock or /tmp.

    Raises:
        UserError: when it cannot be made or written.
    """
    shared = Path("/run/lock")
    if given := os.environ.get("ELMANCTL_LOCKS"):
        path = Path(given)
    else:  # by the mode and not by what this user may do, so that root and others come to the same folder
        everybody = shared.is_dir() and stat.S_IMODE(shared.stat().st_mode) & 0o002
        path = (shared if everybody else Path("/tmp")) / "elmanctl"
    try:
        path.mkdir(exist_ok=True)
        if path.stat().st_uid == os.getuid():
            path.chmod(SHARED)
    except OSError as error:
        raise _refused(path, error) from error
    return path


def _refused(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: {error.strerror or error}. GPUs are locked in a folder that every user may write to; "
        "set ELMANCTL_LOCKS to one, the same for everybody on this machine."
    )


def _open(path: Path) -> int:
    """Open a lock file of anybody. Never with O_CREAT on one that exists: kernels refuse that in a sticky folder."""
    for _ in range(RETRIES):
        for flags in (os.O_RDWR, os.O_RDONLY):
            with contextlib.suppress(PermissionError, FileNotFoundError):
                return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
        with contextlib.suppress(FileExistsError):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            os.fchmod(file, 0o666)  # whatever the umask
            return file
    raise PermissionError(13, "cannot be opened", str(path))


def acquire(name: str, what: str) -> int | None:
    """Take the lock of a GPU, by UUID; see `take`.

    Raises:
        UserError: when the folder of locks cannot be used.
    """
    return take(folder() / f"{name}.lock", what)


def take(path: Path, what: str) -> int | None:
    """Take a lock and return its open file, which child processes may inherit; None where somebody else holds it.

    Args:
        path: the lock's file; what: for people: what it is taken for.
    Raises:
        UserError: when the file cannot be opened or made.
    """
    try:
        file = _open(path)
    except OSError as error:
        raise _refused(path, error) from error
    for _ in range(RETRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(RETRY_SECONDS)
            continue
        if not _is(path, file):  # a cleaner of old files removed it meanwhile: a lock on it binds nobody
            break
        note(file, what)
        return file
    os.close(file)
    return None


def _is(path: Path, file: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file))
    return False


def note(file: int, what: str) -> None:
    """Write into a held lock who holds it; also keeps cleaners of old files away."""
    import getpass

    holder = Holder(user=getpass.getuser(), pid=os.getpid(), host=socket.gethostname(), what=what, since=time.time())
    with contextlib.suppress(OSError):  # a lock file of another user may be read-only; the lock holds all the same
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(msgspec.to_builtins(holder)).encode(), 0)


def release(file: int) -> None:
    """Let go of a lock in this process; it is free once its other holders have let go as well."""
    os.close(file)


def holder(name: str) -> Holder | None:
    """Return who holds a GPU's lock now, None if nobody does."""
    return held(folder() / f"{name}.lock")


def held(path: Path) -> Holder | None:
    """Return who holds a lock now, None if nobody does."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(path, error) from error
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        try:
            return msgspec.json.decode(os.pread(file, 4096, 0), type=Holder)
        except DAMAGED:  # just taken, or not by elmanctl
            return Holder()
    finally:
        os.close(file)


def stay_off(name: str, why: str) -> None:
    """Keep elmanctl off a GPU, for every user, until `allow`."""
    path = folder() / f"{name}.off"
    try:
        path.write_text(f"{why}\n")
        path.chmod(0o644)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Another user may have put it on the list already.") from error


def allow(name: str) -> None:
    """Take a GPU off the list.

    Raises:
        UserError: when another user put it there.
    """
    path = folder() / f"{name}.off"
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Only who put a GPU on the list, or root, takes it off.") from error


def off(name: str) -> str:
    """Return why a GPU is on the stay-off list, an empty text if it is not."""
    with contextlib.suppress(FileNotFoundError):
        return (folder() / f"{name}.off").read_text(errors="replace").strip() or "no reason given"
    return ""

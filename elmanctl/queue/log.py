"""`events.jsonl` of a run: append-only JSON lines, each with a checksum; who appends holds the file's lock and checks the step.

* A line cut off by a kill or a full disk is closed by the next writer, and skipped, named and counted by every reader.
* Writing is: lock, read what others wrote, check the step against it, write one line, sync to disk, unlock.
"""

import contextlib
import fcntl
import os
import time
import zlib
from pathlib import Path

import msgspec

from elmanctl.errors import UserError
from elmanctl.files import DAMAGED
from elmanctl.names import EVENTS
from elmanctl.queue import states
from elmanctl.queue.states import Event, Job

SUM = b',"sum":"'
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Event).decode


class Refused(Exception):
    """A step that cannot be taken from where the job is now: somebody else was faster."""


def line(event: Event) -> bytes:
    """Return an event as a line with its checksum."""
    body = _encode(event)
    return body[:-1] + SUM + b'%08x"}\n' % zlib.crc32(body)


def read_line(text: bytes) -> Event | None:
    """Return the event of a line, None where the line is damaged or not one of these.

    Raises:
        UserError: for a line of a newer version.
    """
    body, found, tail = text.rpartition(SUM)
    body += b"}"
    if not found or tail[8:] != b'"}' or tail[:8] != b"%08x" % zlib.crc32(body):
        return None
    try:
        version = msgspec.json.decode(body, type=_Version).v
        if version > states.VERSION:
            raise UserError(
                f"The queue was written by a newer elmanctl (version {version}, this one knows {states.VERSION}). Update this one."
            )
        return _decode(body)
    except DAMAGED:
        return None


class _Version(msgspec.Struct):
    v: int


class Queue:
    """The jobs of a run, as its log has them at the last `refresh`.

    Args:
        run: the run's folder. The log is made by the first step that is written.
    """

    def __init__(self, run: Path):
        self.run, self.path = Path(run), Path(run) / EVENTS
        self.jobs: dict[str, Job] = {}
        self.damaged: list[int] = []  # numbers of lines that were skipped
        self._offset = 0
        self._lines = 0

    def refresh(self) -> "Queue":
        """Read what was written since the last look; a last line without an end is left for later."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size == self._offset:
                    return self
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return self
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}. The run's queue cannot be read.") from error
        self._offset += len(whole) + len(newline)
        for text in whole.split(b"\n") if newline else ():
            self._lines += 1
            event = read_line(text) if text else None
            if event is None:
                self.damaged += [self._lines] if text else []
            else:
                states.apply(self.jobs, event)
        return self

    def complaint(self) -> str:
        """Return a sentence on damaged lines, an empty text where there are none."""
        if not self.damaged:
            return ""
        numbers = ", ".join(map(str, self.damaged[:5])) + (", ..." if len(self.damaged) > 5 else "")
        return f"{self.path}: {len(self.damaged)} damaged line{'s' * (len(self.damaged) > 1)} skipped ({numbers})."

    @contextlib.contextmanager
    def locked(self):
        """Hold the log's lock and have its latest state; nobody else appends meanwhile.

        Raises:
            UserError: when the file cannot be written, on a read-only disk for example.
        """
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._failed(error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = os.fstat(file).st_size
            if (
                size and os.pread(file, 1, size - 1) != b"\n"
            ):  # first of all: what was cut off may be a whole step but for its end
                self._append(file, b"\n")
            self.refresh()
            yield file
        finally:
            os.close(file)

    def write(self, step: str, label: str, **facts) -> Job:
        """Take one step of one job and return the job as it then is.

        Args:
            facts: the fields of Event; `attempt` is the job's present one by default (the next for `start`).
        Raises:
            Refused: when the job is not where the step begins, or at another attempt.
            UserError: when the disk is full or the file cannot be written; the log is then as before.
        """
        with self.locked() as file:
            return self.write_locked(file, step, label, **facts)

    def write_locked(self, file: int, step: str, label: str, **facts) -> Job:
        """Take one step while `locked` is held."""
        self.write_together(file, step, {label: facts})
        return self.jobs[label]

    def write_together(self, file: int, step: str, jobs: dict[str, dict]) -> None:
        """Take one step of several jobs while `locked` is held, of all of them or of none.

        Args:
            jobs: the facts of each, as `write` takes them, by label.
        Raises:
            Refused, UserError: as `write` does; also for a fact that could not be read back.
        """
        text = b""
        for label, facts in jobs.items():
            job = self.jobs.get(label)
            attempt = (job.attempt if job else 0) + (step == "start")
            event = Event(v=states.VERSION, time=time.time(), job=label, step=step, **{"attempt": attempt} | facts)
            if reason := states.refusal(job, event):
                raise Refused(reason)
            text += self._line(event)
        if text:
            self._append(file, text)
            self.refresh()

    def _line(self, event: Event) -> bytes:
        """Return an event's line, once it is known to say the same when it is read: NaN and infinity, for one, would not."""
        try:
            text = line(event)
            if read_line(text[:-1]) == event:
                return text
        except UnicodeEncodeError:  # bytes of a command line that are no text
            pass
        raise UserError(
            f"{self.path}: {event.step} of {event.job} could not be read back, so it was not written: a number of it is not finite, or a "
            "text not UTF-8. The queue is as before; give other values."
        )

    def _append(self, file: int, text: bytes) -> None:
        """Write all of a text and sync it, or nothing."""
        before = os.fstat(file).st_size
        try:
            while text:
                text = text[os.write(file, text) :]
            os.fsync(file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(file, before)
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> UserError:
        return UserError(
            f"{self.path} could not be written: {error.strerror or error}. What was written before is kept; free some space or "
            f"make the folder writable, then go on with `elmanctl bench --resume {self.run.name}`."
        )

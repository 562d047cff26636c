"""The files of a run: their names, and those that grow while it trains, a line a step, on disk as soon as it is known."""

import os
import re
from pathlib import Path

import msgspec

from elmanctl.errors import UserError
from elmanctl.files import atomic, read_lines
from elmanctl.records import Heldout, Step, read_steps

TRIAL, RESULT, STEPS, HELDOUT = "trial.json", "result.json", "steps.jsonl", "heldout.jsonl"
LOGGED = "logged.jsonl"  # of an imported run, in place of steps.jsonl
CHECKPOINTS, ATTEMPTS = "checkpoints", "attempts"
CHECKPOINT = re.compile(r"step_([0-9]{6,})_loss_([0-9]+\.[0-9]{4})")


def checkpoint_name(step: int, loss: float) -> str:
    """Return a checkpoint's folder name, which carries its step and loss: `step_000500_loss_1.2345`."""
    return f"step_{step:06d}_loss_{loss:.4f}"


def parse_checkpoint_name(name: str) -> tuple[int, float] | None:
    """Return the step and loss that a folder name carries, or None where it is no checkpoint's."""
    found = CHECKPOINT.fullmatch(name)
    return (int(found[1]), float(found[2])) if found else None


def rank_folder(run: Path, rank: int) -> Path:
    """Return where one of a trial's ranks leaves what it has to say about a failure of its own."""
    return run if rank == 0 else run / f".rank{rank}"


class Lines:
    """A JSON-lines file that is appended to without a buffer: a killed process loses at most the line being written."""

    def __init__(self, path: Path):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise self._failed(error) from error

    def append(self, record: msgspec.Struct) -> None:
        """Write one record.

        Raises:
            UserError: when the disk is full or the file cannot be written.
        """
        line = msgspec.json.encode(record) + b"\n"
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise self._failed(error) from error

    def mend(self) -> None:
        """End a line that a killed process left half written, so that the next one is not lost with it."""
        with self.path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            if end and file.read() != b"\n":
                self._file.write(b"\n")

    def sync(self) -> None:
        """Let what was appended survive the end of the machine too."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _failed(self, error: OSError) -> UserError:
        return UserError(
            f"{self.path} could not be written: {error.strerror or error}. Free some space and start the run again; "
            "what was written before is kept."
        )


def cut(folder: Path, last_step: int, rewrite: bool = True) -> list[Step]:
    """Drop the records after a step, which a resumed run makes again, and return the steps that remain; without `rewrite` only those.

    Raises:
        UserError: when a step before it is missing.
    """
    path = folder / STEPS
    steps = [s for s in read_steps(path) if s.step <= last_step] if path.exists() else []
    if len(steps) != last_step:
        raise UserError(
            f"{path} holds {len(steps)} of the {last_step} steps before the checkpoint; it cannot be resumed. Start afresh."
        )
    if not rewrite:
        return steps
    _rewrite(path, steps)
    if (folder / HELDOUT).exists():
        _rewrite(folder / HELDOUT, [h for h in read_heldout(folder / HELDOUT) if h.step <= last_step])
    return steps


def read_heldout(path: Path) -> list[Heldout]:
    """Read heldout.jsonl; a last line cut off by a kill is dropped."""
    return read_lines(path, Heldout)


def _rewrite(path: Path, records: list) -> None:
    with atomic(path, "wb") as file:
        for record in records:
            file.write(msgspec.json.encode(record) + b"\n")

"""Training bytes: a memory-mapped file and a sampler that depends on seed, step and row alone.

* Every model sees the same bytes at the same step, however fast it is, and a resumed run continues with the next ones.
* The last 1 % of the file is held out; it is evaluated at fixed, evenly spaced positions.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from elmanctl.console import note
from elmanctl.errors import UserError

DEFAULT = Path("data/pile.txt")
EMBEDDED = Path("data/corpus.txt")
HELDOUT = 100  # one part in so many is held out
SEPARATOR = 0x1E  # between documents
WHOLE = 256 << 20  # bytes; files up to this size are hashed whole
SAMPLE, SAMPLES = 1 << 16, 1024  # larger ones by this many blocks of this size, so that a run does not wait for minutes
MAKE = "Or write a corpus from text on this machine with: elmanctl data make"


def locate(path: str | Path, tell: bool = True) -> Path:
    """Return the file to train on: the one given or, where the default is absent, the embedded corpus.

    Args:
        path: as requested; tell: print a note where the corpus stands in.
    Raises:
        UserError: when there is no such file, or it is a folder, a device or a pipe.
    """
    path = Path(path)
    if path == DEFAULT and not path.exists() and EMBEDDED.is_file():
        if tell:
            note(f"{DEFAULT} does not exist; training on the embedded corpus {EMBEDDED} instead.")
        return EMBEDDED
    if path.is_dir():
        raise UserError(f"{path} is a folder; training data is one file of bytes. Name the file. {MAKE}")
    if not path.is_file():
        if path.exists():
            raise UserError(
                f"{path} is no regular file but a device, pipe or socket; training reads here and there in one file. Name one. {MAKE}"
            )
        raise UserError(
            f"The data file {path} does not exist. Name one that does: --data of train, training: {{data: FILE}} of a suite. {MAKE}"
        )
    return path


@dataclass(frozen=True)
class Source:
    """One data file, split in a training part and a held-out tail.

    Args:
        path: the file that is really read; content: its bytes, memory-mapped.
        training_bytes: how many of them may be trained on; the rest, to the end, is held out.
    """

    path: Path
    content: np.ndarray
    training_bytes: int

    @classmethod
    def open(cls, path: str | Path, rows: int, chunk: int, tell: bool = True) -> "Source":
        """Map a file that is long enough for batches of `rows` x (chunk + 1) bytes; `path` and `tell` as in locate.

        Raises:
            UserError: when it is missing, a folder, empty, too short or unreadable.
        """
        path = locate(path, tell)
        content = map_bytes(path)
        heldout = len(content) // HELDOUT
        need = max(rows, HELDOUT) * (chunk + 1)
        if len(content) - heldout < rows * (chunk + 1) or heldout < chunk + 1:
            raise UserError(
                f"{path} has {len(content):,} bytes; batches of {rows} x {chunk + 1} bytes, and a held-out tail of 1 % that "
                f"holds one row, need about {need * 101 // 100:,}. Use a smaller --batch or --chunk, or a longer file. {MAKE}"
            )
        return cls(path, content, len(content) - heldout)

    @cached_property
    def hash(self) -> str:
        """What identifies the file's content; see file_hash."""
        return file_hash(self.path)

    def batch(self, seed: int, step: int, rows: int, chunk: int) -> np.ndarray:
        """Return the batch of one step, uint8 [rows, chunk + 1]; row r depends on (seed, step, r) and the file only."""
        draws = np.random.Philox(key=seed, counter=[0, 0, 0, step]).random_raw(rows)
        # The remainder favours early positions by less than one part in 2^20 for any file under 16 TiB.
        starts = draws % np.uint64(self.training_bytes - chunk)
        return self._rows(starts.astype(np.int64), chunk)

    def heldout(self, rows: int, chunk: int, batches: int) -> list[np.ndarray]:
        """Return up to `batches` batches, uint8 [<= rows, chunk + 1], at fixed places of the held-out tail, none overlapping."""
        size = len(self.content) - self.training_bytes
        windows = min(rows * batches, size // (chunk + 1))
        windows -= windows % rows if windows > rows else 0
        starts = self.training_bytes + np.linspace(0, size - (chunk + 1), windows).astype(np.int64)
        return [self._rows(starts[i : i + rows], chunk) for i in range(0, windows, rows)]

    def _rows(self, starts: np.ndarray, chunk: int) -> np.ndarray:
        return np.stack([self.content[start : start + chunk + 1] for start in starts])


def map_bytes(path: Path) -> np.ndarray:
    """Map a file for reading.

    Raises:
        UserError: when it is missing, a folder, empty or unreadable.
    """
    path = locate(path)
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty. {MAKE}")
        return np.memmap(path, dtype=np.uint8, mode="r")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error


def file_hash(path: Path) -> str:
    """Return what identifies a file's content: BLAKE2b of the whole up to 256 MiB, else of its size and 1024 even samples."""
    size = path.stat().st_size
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        if size <= WHOLE:
            while block := file.read(1 << 20):
                digest.update(block)
            return f"blake2b:{digest.hexdigest()}"
        digest.update(str(size).encode())
        for i in range(SAMPLES):
            file.seek((size - SAMPLE) * i // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
    return f"blake2b-sampled:{digest.hexdigest()}"


def chain(previous: str, batch: np.ndarray) -> str:
    """Return the rolling hash after one more batch: equal for two runs exactly when all their batches were."""
    return hashlib.blake2b(bytes.fromhex(previous) + batch.tobytes(), digest_size=16).hexdigest()

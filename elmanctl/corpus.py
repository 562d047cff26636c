"""The embedded corpus: real text found on any machine, so that a first run needs no download.

* Sources: the interpreter's library, installed packages, system documentation and manual pages.
* Documents are separated by 0x1e. Their order is that of a hash of their names: fixed, and mixed, so that the held-out tail
  resembles the rest. Equal contents occur once.
"""

import gzip
import hashlib
import os
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from elmanctl.data import SEPARATOR, file_hash
from elmanctl.errors import UserError
from elmanctl.files import atomic, read_json, write_json
from elmanctl.records import SCHEMA

SMALLEST = 20_000_000  # bytes; fewer repeat too soon to train anything on
SUFFIXES = (".py", ".pyi", ".md", ".rst", ".txt", ".html", ".tex", ".texi")
DOCUMENT = (64, 1_000_000)  # bytes: shorter ones are stubs, longer ones are mostly generated tables
_NOT_TEXT = bytes([0, SEPARATOR])


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a corpus file holds: sizes in bytes, hash as in data.file_hash, and documents and bytes by source."""

    bytes: int
    documents: int
    hash: str
    asked: int
    sources: dict[str, dict[str, int]]
    schema: int = SCHEMA


def roots() -> dict[str, Path]:
    """Return the folders that are searched, by the name used in the manifest."""
    paths = sysconfig.get_paths()
    return {
        "library": Path(paths["stdlib"]),
        "packages": Path(paths["purelib"]),
        "system packages": Path("/usr/lib/python3/dist-packages"),
        "documentation": Path("/usr/share/doc"),
        "manual": Path("/usr/share/man"),
    }


def candidates(folders: dict[str, Path]) -> list[tuple[str, str, Path]]:
    """Return (order, source, path) of each text file, sorted by order, a hash of source and relative name."""
    found, seen = [], set()
    for source, root in folders.items():
        for folder, below, names in os.walk(root):
            below[:] = [name for name in below if name != "__pycache__"]
            for name in names:
                path = Path(folder, name)
                # Documentation files often have no suffix (copyright, README, changelog.gz) and manual pages a section's.
                if source not in ("documentation", "manual") and path.suffix not in SUFFIXES:
                    continue
                if path.is_symlink() or path in seen:
                    continue
                seen.add(path)
                label = f"{source}/{path.relative_to(root).as_posix()}"
                order = hashlib.blake2b(label.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
                found.append((order, source, path))
    return sorted(found, key=lambda entry: entry[0])


def read_document(path: Path) -> bytes | None:
    """Return a file's text (gzip undone), or None where it is not UTF-8 text of a sensible length."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read(DOCUMENT[1] + 1)
        if not DOCUMENT[0] <= len(content) <= DOCUMENT[1] or any(byte in content for byte in _NOT_TEXT):
            return None
        content.decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        return None  # unreadable, damaged or binary files are no text; the corpus counts what it took
    return content


def documents(folders: dict[str, Path]) -> Iterator[tuple[str, bytes]]:
    """Yield (source, text) of each document, equal contents once, in the fixed order."""
    seen = set()
    for _, source, path in candidates(folders):
        content = read_document(path)
        if content is None:
            continue
        key = hashlib.blake2b(content, digest_size=16).digest()
        if key not in seen:
            seen.add(key)
            yield source, content


def manifest_path(corpus: Path) -> Path:
    """Return where a corpus's manifest lies: beside it, `.json` instead of its suffix."""
    return corpus.with_suffix(".json")


def check_place(out: Path) -> None:
    """Refuse to write a corpus over anything but a corpus of ours, as its manifest describes it, or over another file's manifest.

    Raises:
        UserError: saying what is in the way.
    """

    def refuse(path: Path, why: str) -> NoReturn:
        raise UserError(f"{path} {why} Nothing was written. Choose another --out, or move that away.")

    if out.is_dir():
        refuse(out, "is a folder; a corpus is one file.")
    manifest = manifest_path(out)
    if manifest == out:
        raise UserError(f"{out}: a corpus cannot end in .json, which its manifest does. Choose another --out.")
    if not os.path.lexists(manifest):
        if os.path.lexists(out):
            refuse(
                out,
                f"exists and {manifest}, which a corpus has beside it, does not: it was not written by this command.",
            )
        return
    try:
        written = read_json(manifest, Manifest)
    except UserError as error:
        refuse(manifest, f"exists and is no corpus's manifest ({error}).")
    if os.path.lexists(out):
        if not out.is_file() or file_hash(out) != written.hash:
            refuse(out, f"is not the corpus that {manifest} describes.")
        return
    # A manifest does not say which of the files with its stem it describes.
    for path in out.parent.iterdir():
        if path != manifest == manifest_path(path) and path.is_file() and path.stat().st_size == written.bytes:
            refuse(manifest, f"describes {path}.")


def make(out: Path, size: int, folders: dict[str, Path] | None = None, smallest: int = SMALLEST) -> Manifest:
    """Write a corpus of about `size` bytes, and its manifest, each atomically.

    Args:
        out: the file; size: bytes wanted, the last document is taken whole where it begins below this.
        folders: where to search, `roots()` by default; smallest: refuse to write less than this.
    Returns:
        the manifest; `bytes` is less than `size` where the machine has no more text.
    Raises:
        UserError: when less than `smallest` is asked for or found, the disk is full, or it would replace what is no corpus of ours.
    """
    folders = roots() if folders is None else folders
    if size < smallest:
        raise UserError(f"A corpus of {size:,} bytes is too short to train on. Ask for {smallest // 10**6}M or more.")
    check_place(out)
    sources: dict[str, dict[str, int]] = {}
    written = count = 0
    with atomic(out, "wb") as file:
        for source, content in documents(folders):
            file.write(content + bytes([SEPARATOR]))
            written, count = written + len(content) + 1, count + 1
            entry = sources.setdefault(source, {"documents": 0, "bytes": 0})
            entry["documents"] += 1
            entry["bytes"] += len(content) + 1
            if written >= size:
                break
        if written < smallest:
            raise UserError(
                f"Only {written:,} bytes of text were found in {', '.join(map(str, folders.values()))}; "
                f"a corpus needs {smallest // 10**6}M. Give a text file of your own with --data."
            )
        file.flush()
        manifest = Manifest(
            bytes=written, documents=count, hash=file_hash(Path(file.name)), asked=size, sources=sources
        )
        # First, so that a kill leaves no corpus without one, which the next call would not replace.
        write_json(manifest_path(out), manifest)
    return manifest


def check(path: Path, content: Any, shortest_zero_run: int = 8) -> dict[str, Any]:
    """Summarise a data file: size, bytes used, documents, zero runs and hash.

    Args:
        path: the file; content: its bytes (data.map_bytes).
        shortest_zero_run: zero bytes in a row that count as padding.
    Returns:
        plain data; shares between 0 and 1, `histogram` the count of each byte value, entropy in bits per byte of the single-byte distribution.
    """
    import numpy as np

    counts = np.zeros(256, dtype=np.int64)
    runs = longest = run = 0
    for start in range(0, len(content), 1 << 24):
        block = np.asarray(content[start : start + (1 << 24)])
        counts += np.bincount(block, minlength=256)
        edges = np.flatnonzero(np.diff(np.concatenate(([False], block == 0, [False])).astype(np.int8)))
        for begin, end in edges.reshape(-1, 2):
            run = end - begin + (run if begin == 0 else 0)
            longest = max(longest, run)
            # A run that crosses blocks is counted once, when it first is long enough.
            before = run - (end - begin)
            runs += before < shortest_zero_run <= run
            run = run if end == len(block) else 0
        if len(edges) == 0:
            run = 0
    share = counts / counts.sum()
    used = share[share > 0]
    top = np.argsort(-counts)[:8]
    return {
        "path": str(path),
        "bytes": int(counts.sum()),
        "documents": int(counts[SEPARATOR]) + int(content[-1] != SEPARATOR),
        "distinct_bytes": len(used),
        "entropy_bits": float((used * np.log2(1 / used)).sum()),
        "printable_share": float(share[32:127].sum() + share[[9, 10, 13]].sum()),
        "high_share": float(share[128:].sum()),
        "most_frequent": {repr(chr(b))[1:-1] if b < 128 else f"\\x{b:02x}": float(share[b]) for b in top if counts[b]},
        "histogram": counts.tolist(),
        "zero_bytes": int(counts[0]),
        "zero_runs": int(runs),
        "longest_zero_run": int(longest),
        "hash": file_hash(path),
    }

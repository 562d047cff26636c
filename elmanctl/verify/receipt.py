"""Receipts: what verify writes, and whether one still vouches for the sources as they are. Torch is not imported.

* One JSON object per variant and target, keyed by canonical model name: `<variant folder>/receipts/<target>.json`, or below
  ELMANCTL_HOME (default ~/.local/share/elmanctl) where the folder cannot be written.
* A receipt is bound to hashes over the folder's code, every shared header that its kernel reaches, flags and the rule of verify.
* `green`: verify passed with these sources. `stale`: something changed since. `red`: verify failed with these sources, or the receipt
  was changed by hand. `none`: never verified.
"""

import functools
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

import elmanctl
from elmanctl.errors import UserError
from elmanctl.files import DAMAGED, write_json
from elmanctl.flavours import is_host
from elmanctl.toolchain import DEVICE_FLAGS, HOST_FLAGS, csrc_folder, runtime_sources, sources
from elmanctl.variant import Spec, Variant
from elmanctl.verify import policy
from elmanctl.verify.record import SCHEMA, Proof, Receipt

SUFFIXES = (".cu.cc", ".cuh", ".py")


def source_hash(variant: Variant) -> str:
    """Return the SHA-256 over a variant's code: names and contents of its files and of the shared headers it reaches."""
    folder = variant.folder.resolve()
    files = {f"variant/{p.relative_to(folder)}": p for p in code_files(folder)}
    files |= {f"tool/{p.name}": p for p in shared_modules(variant)}
    if variant.has_kernel:
        shared = csrc_folder().resolve()
        for path in map(Path.resolve, sources(folder)):
            if path.is_relative_to(shared):
                files[f"shared/{path.relative_to(shared)}"] = path
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        content = path.read_bytes()
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def parts(variant: Variant, target: str, common: dict[str, str] | None = None) -> dict[str, str]:
    """Return the hash of each thing that a receipt for a target vouches for; `common` are those of any target, if known."""
    texts = {"policy": policy.digest()}
    if variant.has_kernel:
        flags = HOST_FLAGS if is_host(target) else DEVICE_FLAGS
        texts["flags"] = digest((), " ".join(flags))
        if is_host(target):
            texts["runtime"] = digest(sorted(runtime_sources(target), key=_order))
    return dict(sorted(((common or _common_parts(variant)) | texts).items()))


def _order(path: Path) -> tuple[str, ...]:
    """Sort paths as they sort themselves, at a tenth of the price."""
    return path.parts


def _common_parts(variant: Variant) -> dict[str, str]:
    folder, shared = variant.folder.resolve(), csrc_folder().resolve()
    files = code_files(folder)
    groups: dict[str, list[Path]] = {"kernel": [], "reference": [], "layer": [], "shared": _reached_modules(files)}
    for path in files:
        name = {"reference.py": "reference"}.get(path.name, "layer" if path.suffix == ".py" else "kernel")
        groups[name].append(path)
    if variant.has_kernel:
        groups["headers"] = [p for p in sources(folder) if p.is_relative_to(shared)]
    return {name: digest(sorted(paths, key=_order)) for name, paths in groups.items() if paths}


def digest(paths: Iterable[Path], text: str = "") -> str:
    """Return a short hash over names and contents of files, and a text."""
    return _digest(tuple((path, path.stat().st_mtime_ns) for path in paths), text)


@functools.lru_cache(256)
def _digest(files: tuple[tuple[Path, int], ...], text: str) -> str:
    """Variants of one family reach the same headers."""
    total = hashlib.sha256(text.encode())
    for path, _ in files:
        content = path.read_bytes()
        total.update(f"{path.name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()[:32]


def family(variant: Variant) -> str:
    """Return the names of the family headers that a kernel reaches, its own name where it reaches none."""
    families = csrc_folder().resolve() / "elman" / "families"
    return ", ".join(sorted(p.name for p in sources(variant.folder) if p.resolve().parent == families)) or variant.name


def shared_modules(variant: Variant) -> list[Path]:
    """Return the tool's own files that a variant's folder is made of: families/, shells.py and spectral.py, as far as it reaches them."""
    return _reached_modules(code_files(variant.folder.resolve()))


def _reached_modules(files: list[Path]) -> list[Path]:
    known = _building_blocks()
    found: set[Path] = set()
    waiting = [path for path in files if path.suffix == ".py"]
    while waiting:
        path = waiting.pop()
        new = {known[word] for word in _imported(path, path.stat().st_mtime_ns) if word in known} - found
        found |= new
        waiting += new
    return sorted(found)


@functools.cache
def _building_blocks() -> dict[str, Path]:
    tool = Path(elmanctl.__file__).resolve().parent
    return {path.stem: path for path in (tool / "shells.py", tool / "spectral.py", *tool.glob("families/[a-z]*.py"))}


@functools.lru_cache(1024)
def _imported(path: Path, _changed: int) -> set[str]:
    """Return the words of a file's imports from the tool."""
    lines = re.findall(r"^(?:from|import) elmanctl\b.*$", path.read_text(), re.MULTILINE)
    return {word for line in lines for word in re.findall(r"\w+", line)}


def code_files(folder: Path) -> list[Path]:
    """Return the files of a folder that decide what it computes; tests do not."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found += [Path(place, n) for n in names if n.endswith(SUFFIXES) and not n.startswith("test_")]
    return sorted(found, key=_order)


def home() -> Path:
    """Return where receipts go whose variant's folder cannot be written: ELMANCTL_HOME, else ~/.local/share/elmanctl."""
    return _home(os.environ.get("ELMANCTL_HOME") or os.path.expanduser("~/.local/share/elmanctl"))


_home = functools.cache(Path)


def places(variant: Variant, target: str) -> tuple[Path, Path]:
    """Return the file in the variant's folder, and the one below ELMANCTL_HOME."""
    name = f"{target}.json"
    return variant.folder / "receipts" / name, home() / "receipts" / variant.folder.name / name


def read(path: Path) -> dict[str, Receipt]:
    """Return the receipts of one file by model name; none where the file is absent.

    Raises:
        UserError: when the file is not what verify writes.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Receipt])
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except DAMAGED as error:
        raise UserError(f"{path} is no file of receipts: {error}. Delete it and run elmanctl verify again.") from None


class Held(NamedTuple):
    """A receipt, and what it is worth: `green`, `stale` or `red`, with the reason in words."""

    receipt: Receipt
    state: str
    why: str = ""


def find(spec: Spec, target: str) -> Receipt | None:
    """Return the receipt of a configuration for a target, if it vouches for the sources as they are."""
    found = held(spec, (target,)).get(target)
    return found.receipt if found and found.state == "green" else None


def held(spec: Spec, targets: Iterable[str] | None = None) -> dict[str, Held]:
    """Return a configuration's receipts by target, all that have one or those asked for; of two places the better."""
    if targets is None:
        files = {path for place in places(spec.variant, "any") for path in place.parent.glob("*.json")}
        targets = sorted({path.stem for path in files})
    result, common = {}, None
    for target in targets:
        found = [r for p in places(spec.variant, target) if (r := read(p).get(spec.name)) and r.target == target]
        if found:
            common = common or _common_parts(spec.variant)
            current = parts(spec.variant, target, common)
            judged = [_held(spec, r, current) for r in found]
            result[target] = min(judged, key=lambda h: ("green", "red", "stale").index(h.state))
    return result


def _held(spec: Spec, receipt: Receipt, current: dict[str, str]) -> Held:
    if receipt.schema != SCHEMA:
        return Held(receipt, "stale", "an older elmanctl wrote it")
    if not receipt.intact or receipt.model != spec.name:
        return Held(receipt, "red", "it was changed by hand: its seal is broken")
    if changed := [name for name in current if receipt.parts.get(name) != current[name]]:
        return Held(receipt, "stale", f"changed since: {', '.join(changed)}")
    if receipt.failed:
        return Held(receipt, "red", f"failed: {', '.join(receipt.failed)}")
    return Held(receipt, "green")


def state(spec: Spec, target: str) -> str:
    """Return `green`, `stale`, `red` or `none`."""
    found = held(spec, (target,)).get(target)
    return found.state if found else "none"


def write(spec: Spec, receipt: Receipt) -> Path | None:
    """Seal a receipt, write it atomically and return its file. A quick one does not replace a full one that holds (None)."""
    old = find(spec, receipt.target)
    if receipt.quick and not receipt.failed and old and not old.quick:
        return None
    if old and receipt.proof is None and not receipt.failed:  # the same sources: what was shown of them still holds
        receipt = msgspec.structs.replace(receipt, proof=old.proof)
    return _change(spec, receipt.target, receipt)


def attach(spec: Spec, target: str, proof: Proof | None) -> None:
    """Put a proof into the valid receipt of a configuration, or take it out."""
    if known := find(spec, target):
        _change(spec, target, msgspec.structs.replace(known, proof=proof))


def _change(spec: Spec, target: str, receipt: Receipt) -> Path:
    from elmanctl.build import locked  # listing receipts needs no compiler

    mine, fallback = places(spec.variant, target)
    path = mine if _writable(mine.parent) else fallback
    with locked("receipts"):
        for place in {path, *(p for p in (mine, fallback) if p.exists() and _writable(p.parent))}:
            kept = {name: r for name, r in read(place).items() if name != spec.name}
            if place == path:
                kept[spec.name] = receipt.sealed()
            write_json(place, dict(sorted(kept.items())))
    return path


def _writable(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK)

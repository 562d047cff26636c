"""Receipts: what verify writes, and whether one still vouches for the sources as they are. Torch is not imported.

* One JSON object per variant and target, keyed by canonical model name: `<variant folder>/receipts/<target>.json`, or below
  ELMANCTL_HOME (default ~/.local/share/elmanctl) where the folder cannot be written.
* A receipt is bound to a hash over the folder's code and every shared header that its kernel reaches.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from elmanctl.errors import UserError
from elmanctl.files import write_json
from elmanctl.toolchain import csrc_folder, sources
from elmanctl.variant import Spec, Variant
from elmanctl.verify.record import Proof, Receipt

SUFFIXES = (".cu.cc", ".cuh", ".py")


def source_hash(variant: Variant) -> str:
    """Return the SHA-256 over a variant's code: names and contents of its files and of the shared headers it reaches."""
    folder = variant.folder.resolve()
    files = {f"variant/{p.relative_to(folder)}": p for p in code_files(folder)}
    if variant.has_kernel:
        shared = csrc_folder().resolve()
        for path in sources(folder):
            if path.resolve().is_relative_to(shared):
                files[f"shared/{path.resolve().relative_to(shared)}"] = path
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        content = path.read_bytes()
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def code_files(folder: Path) -> list[Path]:
    """Return the files of a folder that decide what it computes; tests do not."""
    found = (p for p in folder.rglob("*") if p.name.endswith(SUFFIXES) and not p.name.startswith("test_"))
    return sorted(p for p in found if "__pycache__" not in p.parts)


def home() -> Path:
    """Return where receipts go whose variant's folder cannot be written: ELMANCTL_HOME, else ~/.local/share/elmanctl."""
    return Path(os.environ.get("ELMANCTL_HOME") or Path.home() / ".local" / "share" / "elmanctl")


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
    except msgspec.DecodeError as error:
        raise UserError(f"{path} is no file of receipts: {error}. Delete it and run elmanctl verify again.") from None


def find(spec: Spec, target: str) -> Receipt | None:
    """Return the receipt of a configuration for a target, if the sources are the ones it was given for."""
    return held(spec, (target,)).get(target)


def held(spec: Spec, targets: Iterable[str] | None = None) -> dict[str, Receipt | None]:
    """Return a configuration's receipts by target (all that have one, or those asked for); None for one whose sources changed."""
    if targets is None:
        files = {path for place in places(spec.variant, "any") for path in place.parent.glob("*.json")}
        targets = sorted({path.stem for path in files})
    known = {
        t: [r for p in places(spec.variant, t) if (r := read(p).get(spec.name)) and r.target == t] for t in targets
    }
    known = {target: found for target, found in known.items() if found}
    current = source_hash(spec.variant) if known else ""
    return {t: next((r for r in found if r.source_hash == current), None) for t, found in known.items()}


def state(spec: Spec, target: str) -> str:
    """Return `ok`, `stale` (the sources changed since) or `none`."""
    found = held(spec, (target,))
    return "none" if target not in found else "ok" if found[target] else "stale"


def write(spec: Spec, receipt: Receipt) -> Path | None:
    """Write a receipt atomically and return its file. A quick one does not replace a full one that is still valid (None)."""
    old = find(spec, receipt.target)
    if receipt.quick and old and not old.quick:
        return None
    if old and receipt.proof is None:  # the same sources: what was shown of them still holds
        receipt = msgspec.structs.replace(receipt, proof=old.proof)
    return _change(spec, receipt.target, receipt)


def attach(spec: Spec, target: str, proof: Proof | None) -> None:
    """Put a proof into the valid receipt of a configuration, or take it out."""
    if known := find(spec, target):
        _change(spec, target, msgspec.structs.replace(known, proof=proof))


def drop(spec: Spec, target: str) -> bool:
    """Remove the receipts of a configuration that failed; return whether there were any."""
    present = any(spec.name in read(path) for path in places(spec.variant, target))
    if present:
        _change(spec, target, None)
    return present


def _change(spec: Spec, target: str, receipt: Receipt | None) -> Path:
    from elmanctl.build import locked  # listing receipts needs no compiler

    mine, fallback = places(spec.variant, target)
    path = mine if _writable(mine.parent) else fallback
    with locked("receipts"):
        for place in {path, *(p for p in (mine, fallback) if p.exists() and _writable(p.parent))}:
            kept = {name: r for name, r in read(place).items() if name != spec.name}
            if place == path and receipt is not None:
                kept[spec.name] = receipt
            write_json(place, dict(sorted(kept.items())))
    return path


def _writable(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK)

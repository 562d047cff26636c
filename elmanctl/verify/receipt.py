"""Receipts: what verify writes, and whether one still vouches for the sources as they are. Torch is not imported.

* One JSON object per variant and target, keyed by canonical model name: `<variant folder>/receipts/<target>.json`, or below
  ELMANCTL_HOME (default ~/.local/share/elmanctl) where the folder cannot be written.
* A receipt is bound to hashes (hashes.py) over the folder's code, every shared header that its kernel reaches, flags and the rule.
* `green`: verify passed with these sources. `stale`: something changed since. `red`: verify failed with these sources, the receipt
  was changed by hand, or its file cannot be read. `none`: never verified.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from elmanctl.console import note
from elmanctl.errors import UserError
from elmanctl.files import DAMAGED, write_json
from elmanctl.flavours import is_host
from elmanctl.variant import Spec, Variant, parse_options
from elmanctl.verify.hashes import common_parts, kernel_scope, parts
from elmanctl.verify.record import SCHEMA, Proof, Receipt, nothing

UNPROVEN = ("prove",)  # what failed where every check passed, and planted mistakes too


def home() -> Path:
    """Return where receipts go whose variant's folder cannot be written: ELMANCTL_HOME, else ~/.local/share/elmanctl."""
    return _home(os.environ.get("ELMANCTL_HOME") or os.path.expanduser("~/.local/share/elmanctl"))


_home = functools.cache(Path)


def places(variant: Variant, target: str) -> tuple[Path, Path]:
    """Return the file in the variant's folder, and the one below ELMANCTL_HOME."""
    name = f"{target}.json"
    return variant.folder / "receipts" / name, home() / "receipts" / variant.folder.name / name


class Damaged(UserError):
    """A file of receipts that is none."""


def read(path: Path) -> dict[str, Receipt]:
    """Return the receipts of one file by model name; none where the file is absent.

    Raises:
        Damaged: when the file is not what verify writes, or cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Receipt])
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (*DAMAGED, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise Damaged(f"{path} is no file of receipts: {why}. elmanctl verify puts it aside and begins anew.") from None


class Held(NamedTuple):
    """A receipt, and what it is worth: `green`, `stale` or `red`, with the reason in words."""

    receipt: Receipt
    state: str
    why: str = ""


def find(spec: Spec, target: str) -> Receipt | None:
    """Return the receipt that vouches for a configuration on a target with the sources as they are: its own, or where it has none that failed,
    that of another which runs the very same kernel (`same_kernel`); `model` says whose it is.
    """
    own = held(spec, (target,)).get(target)
    if own and own.state != "stale":
        return own.receipt if own.state == "green" else None
    others = (other for other in configurations(spec.variant, target) if other != spec and same_kernel(spec, other))
    found = (held(other, (target,))[target] for other in others)
    return next((one.receipt for one in found if one.state == "green"), None)


def same_kernel(one: Spec, other: Spec) -> bool:
    """Return whether two configurations of a variant differ in sizes alone and compile to the same kernel.

    Options that are numbers are sizes; a form is a word or a yes, and what a layer does with it is to be verified even where the kernel does not
    see it. A size that the kernel sees, as n_state, is a constant of its build.
    """
    if not one.variant.has_kernel:
        return False
    forms = [[v for v in dataclasses.astuple(spec.config) if isinstance(v, bool | str)] for spec in (one, other)]
    constants = one.variant.module("binding").constants
    return forms[0] == forms[1] and constants(one.config) == constants(other.config)


def named(variant: Variant, name: str) -> Spec | None:
    """Return the configuration that a canonical name stands for; None where the variant has changed and knows it no longer."""
    head, _, rest = name.partition(":")
    if (found := variant.match(head)) is None:
        return None
    try:
        options = parse_options(rest.split(",") if rest else [])
        return Spec(variant, variant.configure(name, ("the name", found[1]), ("the options", options)))
    except UserError:
        return None


def configurations(variant: Variant, target: str) -> list[Spec]:
    """Return the configurations of a variant that have a receipt for a target, whatever it is worth; none that the variant knows no longer."""
    known = set()
    for place in places(variant, target):
        with contextlib.suppress(Damaged):
            known |= set(read(place))
    return [spec for name in sorted(known) if (spec := named(variant, name))]


def held(spec: Spec, targets: Iterable[str] | None = None) -> dict[str, Held]:
    """Return a configuration's receipts by target, all that have one or those asked for; of two places the better."""
    result, common = {}, None
    for target in recorded(spec.variant) if targets is None else targets:
        judged = []
        for place in places(spec.variant, target):
            try:
                found = read(place).get(spec.name)
            except Damaged as error:
                judged.append(Held(nothing(spec.variant.name, spec.name, target), "red", str(error)))
                continue
            if found and found.target == target:
                common = common or common_parts(spec.variant)
                judged.append(_held(spec, found, parts(spec, target, common)))
        if judged:
            result[target] = min(judged, key=lambda h: ("green", "red", "stale").index(h.state))
    return result


def recorded(variant: Variant) -> list[str]:
    """Return the targets for which some configuration of a variant has a receipt."""
    files = {path for place in places(variant, "any") for path in place.parent.glob("*.json")}
    return sorted({path.stem for path in files})


def _held(spec: Spec, receipt: Receipt, current: dict[str, str]) -> Held:
    if receipt.schema != SCHEMA:
        return Held(receipt, "stale", f"{'an older' if receipt.schema < SCHEMA else 'a newer'} elmanctl wrote it")
    if not receipt.intact or receipt.model != spec.name:
        return Held(receipt, "red", "it was changed by hand: its seal is broken")
    if changed := [name for name in current if receipt.parts.get(name) != current[name]]:
        return Held(receipt, "stale", f"changed since: {', '.join(changed)}")
    if receipt.failed == UNPROVEN:
        return Held(receipt, "red", "verify passed, and would not notice some mistakes: --prove planted them")
    if receipt.failed:
        return Held(receipt, "red", f"failed: {', '.join(receipt.failed)}")
    return Held(receipt, "green")


def require(specs: Iterable[Spec], target: str, otherwise: str = "") -> dict[str, Receipt]:
    """Return the receipt of each model for a target, by name.

    Args:
        otherwise: what else the user may do, as the end of a sentence.
    Raises:
        UserError: naming every model for which none vouches.
    """
    wanted = {spec.name: spec for spec in specs}
    found = {name: find(spec, target) for name, spec in wanted.items()}
    if bare := [name for name, known in found.items() if known is None]:
        each = ", ".join(f"{name} ({state(wanted[name], target)})" for name in bare)
        raise UserError(
            f"No receipt for {target} vouches for {each}: a kernel is not timed before it is right. "
            f"Run elmanctl verify {' '.join(bare)} --device {'cpu' if is_host(target) else 'cuda'}{otherwise and f', {otherwise}'}."
        )
    return found


def state(spec: Spec, target: str) -> str:
    """Return `green`, `stale`, `red` or `none`."""
    found = held(spec, (target,)).get(target)
    return found.state if found else "none"


def write(spec: Spec, receipt: Receipt) -> Path | None:
    """Seal a receipt, write it atomically and return its file. A quick one does not replace a full one that holds (None).

    What --prove and --sanitize showed of the same sources, for or against them, still holds; also where the layer alone has changed.
    """
    before = held(spec, (receipt.target,)).get(receipt.target)
    if before and not receipt.sized:
        receipt = msgspec.structs.replace(receipt, sized=before.receipt.sized)  # for the next whole run
    old = _passed(before)
    if receipt.quick and not receipt.failed and old and not old.quick:
        return None
    old = old or _proven(spec, before)
    if old and receipt.proof is None and not receipt.failed:
        known = tuple(dict.fromkeys((*old.sanitized, *receipt.sanitized)))
        receipt = msgspec.structs.replace(receipt, proof=old.proof, failed=old.failed, sanitized=known)
    return _change(spec, receipt.target, receipt)


def attach(spec: Spec, target: str, proof: Proof, ok: bool) -> None:
    """Put a proof into the receipt of a configuration that passed; one that is not `ok` makes it red."""
    if known := _passed(held(spec, (target,)).get(target)):
        _change(spec, target, msgspec.structs.replace(known, proof=proof, failed=() if ok else UNPROVEN))


def _passed(known: Held | None) -> Receipt | None:
    """Return a receipt whose checks all passed with the sources as they are, whatever a proof said of them."""
    unproven = known and known.state == "red" and known.receipt.intact and known.receipt.failed == UNPROVEN
    return known.receipt if known and (known.state == "green" or unproven) else None


def _proven(spec: Spec, known: Held | None) -> Receipt | None:
    """Return a receipt that holds no longer, where its proof does."""
    old = known and known.receipt
    if not (old and old.proof and old.intact and old.failed in ((), UNPROVEN)):
        return None
    return old if old.proof.scope == kernel_scope(spec) else None


def _change(spec: Spec, target: str, receipt: Receipt) -> Path:
    from elmanctl.build import locked  # listing receipts needs no compiler

    mine, fallback = places(spec.variant, target)
    path = mine if _writable(mine.parent) else fallback
    with locked("receipts"):
        for place in {path, *(p for p in (mine, fallback) if p.exists() and _writable(p.parent))}:
            kept = {name: r for name, r in _readable(place).items() if name != spec.name}
            if place == path:
                kept[spec.name] = receipt.sealed()
            write_json(place, dict(sorted(kept.items())))
    return path


def _readable(place: Path) -> dict[str, Receipt]:
    """Return the receipts of a file that is to be written anew; put it aside where it is damaged, since it may hold others."""
    try:
        return read(place)
    except Damaged as error:
        free = (place.with_name(f"{place.name}.damaged{f'-{n}' if n else ''}") for n in itertools.count())
        aside = next(path for path in free if not path.exists())
        place.rename(aside)
        note(f"{error} It is now {aside.name}.")
        return {}


def _writable(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK)

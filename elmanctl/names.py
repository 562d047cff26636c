"""Names of files and folders in a run, how a row's name becomes that of its folder among them, and the rows that a call names."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from elmanctl.errors import UserError, did_you_mean
from elmanctl.runlog import ATTEMPTS, CHECKPOINTS, HELDOUT, LOGGED, RESULT, STEPS, TRIAL

RUN, EVENTS, PREFLIGHT, REPORT, PREVIOUS = "run.json", "events.jsonl", "preflight.json", "report.md", "previous"
KERNELS, KERNELS_PAGE = "kernels.json", "kernels.md"  # of recurrences that were timed alone
INDEX = "index.sqlite"  # of a folder of runs
# A row's folder of such a name would be in a file's way, make its run look like a trial, or be passed over as a part of one.
RESERVED = {
    *(RUN, EVENTS, PREFLIGHT, REPORT, PREVIOUS, KERNELS, KERNELS_PAGE, INDEX, f"{INDEX}-wal", f"{INDEX}-shm"),
    *(TRIAL, RESULT, STEPS, HELDOUT, LOGGED, CHECKPOINTS, ATTEMPTS),
}
LONGEST = 100  # what is added to a name (a seed, a batch, a number) still fits into the 255 bytes of a file system
KEPT = "A-Z a-z 0-9 . _ + - are kept, all else is an underscore"


def slug(label: str) -> str:
    """Return a row's name as the name of its folder."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", label)


def problem(folder: str) -> str:
    """Return why no folder may have this name, an empty text where it may."""
    if folder in RESERVED:
        return "elmanctl keeps that name for something of its own"
    if not folder.strip("._"):
        return f"nothing but dots and underscores is left of it; {KEPT}"
    if folder.startswith("."):
        return "a dot at the beginning hides a folder from every list"
    if (size := len(os.fsencode(folder))) > LONGEST:
        return f"it has {size} bytes and may have {LONGEST}"
    return ""


def unusable(label: str, other: str | None = None) -> str:
    """Return why a row cannot have a name, an empty text where it can.

    Args:
        other: the name of the row before it that has the same folder, if one has.
    """
    folder = slug(label)
    if wrong := problem(folder):
        shown = label if len(label) <= LONGEST else f"{label[:LONGEST]}..."
        return f"the row's folder cannot be called as its name says ({shown}): {wrong}. Give the row another label."
    if other is None:
        return ""
    if other == label:
        return f"the name {label} is given twice. Tell the rows apart with label."
    return f"{other} and {label} would have one folder, {folder}; {KEPT}. Tell the rows apart with label."


def check_run(name: str | None) -> None:
    """Refuse a name of a run's folder, as --run gives it, under which no list would show it.

    Raises:
        UserError: with what is wrong with it.
    """
    if name is None:
        return
    if Path(name).name != name:
        raise UserError(f"--run {name} is not a plain folder name; runs lie below runs/. Leave the path out.")
    if wrong := problem(name):
        raise UserError(f"--run {name} is not a name for a folder below runs/: {wrong}. Choose another.")


def chosen(
    asked: Iterable[str], rows: Sequence, of: Callable[..., Iterable[str]], lacks: str, known: Iterable[str]
) -> list:
    """Return the rows that `--only` names, in whatever case, in their order; all where it names none.

    Args:
        of: the names of a row: its label, that which its seeds share, its model's.
        lacks: the message's words for a name that no row has.
        known: names that may be meant.
    Raises:
        UserError: for a name that no row has.
    """
    asked = {name.lower(): name for name in asked}
    held = [{name.lower() for name in of(row)} for row in rows]
    if unknown := [name for low, name in asked.items() if not any(low in own for own in held)]:
        known = list(dict.fromkeys(known))
        raise UserError(f"--only {unknown[0]}: {lacks}.{did_you_mean(unknown[0], known)} Rows: {', '.join(known)}.")
    return [row for row, own in zip(rows, held, strict=True) if not asked or own & asked.keys()]

"""What a report is made of: the records of one or more runs. What cannot be read is named, skipped and counted, never fatal."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path

import msgspec
import numpy as np

from elmanctl import plan, runlog
from elmanctl.errors import UserError
from elmanctl.files import read_json, read_lines
from elmanctl.gpus.verdict import VERDICT, Verdict
from elmanctl.imported import Logged, unfold
from elmanctl.names import chosen
from elmanctl.records import Step, read_steps

# Statuses whose losses are those of a finished run.
SHOWN = ("ok", "contaminated")


@dataclass(frozen=True)
class Series:
    """The steps of one trial, 1, 2, 3, ...; `known` is False where each stands for its neighbours too (an imported log)."""

    steps: list[Step]
    known: bool = True

    def _array(self, name: str) -> np.ndarray:
        return np.fromiter(map(attrgetter(name), self.steps), float, len(self.steps))

    @cached_property
    def numbers(self) -> np.ndarray:
        """Each step's number, int64 [steps]."""
        return self._array("step").astype(int)

    @cached_property
    def loss(self) -> np.ndarray:
        """Training loss of each step, nats per byte, float64 [steps]."""
        return self._array("loss")

    @cached_property
    def seconds(self) -> np.ndarray:
        """Seconds of training up to and including each step, float64 [steps]."""
        return self._array("seconds")

    @cached_property
    def tokens(self) -> np.ndarray:
        """Target tokens up to and including each step, float64 [steps]."""
        return np.cumsum(self._array("tokens"))


@dataclass(frozen=True)
class Entry:
    """One trial: its row and records, the run it was read from, its steps (None where there are none to be read), its evaluations, its witness."""

    row: plan.PlannedRow
    run: plan.Run
    outcome: plan.Outcome
    source: Path
    series: Series | None = None
    heldout: list[runlog.Heldout] = field(default_factory=list)
    witness: Verdict | None = None

    @property
    def shown(self) -> bool:
        """Whether its losses are those of a finished run."""
        return self.outcome.result is not None and self.outcome.result.status in SHOWN

    @property
    def name(self) -> str:
        """The row's name, which the seeds of one row share."""
        return self.row.group or self.row.label

    @property
    def seed(self) -> int | None:
        return self.outcome.trial.training.seed if self.outcome.trial else None


@dataclass(frozen=True)
class Collected:
    """The trials of some runs, in the order of their suites, what was skipped and why, and the names of rows that nobody asked for."""

    folders: tuple[Path, ...]
    runs: tuple[plan.Run, ...]
    entries: tuple[Entry, ...]
    skipped: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def collect(folders: list[Path]) -> Collected:
    """Read runs.

    Raises:
        UserError: where none of the folders holds a readable run.
    """
    runs, entries, skipped, read = [], [], [], []
    for folder in folders:
        try:
            run, outcomes = plan.outcomes(folder, skipped)
        except UserError as error:
            skipped.append(str(error))
            continue
        read.append(Path(folder))
        runs.append(run)
        entries += [_entry(Path(folder), run, outcome, skipped) for outcome in outcomes]
    if not runs:
        raise UserError("Nothing to report: " + " ".join(skipped))
    if len(runs) > 1:
        entries = _distinct(entries)
    return Collected(tuple(read), tuple(runs), tuple(entries), tuple(skipped))


def choose(collected: Collected, names: Sequence[str]) -> Collected:
    """Return what was collected of the rows that are named, by label, by model, or all seeds of a row by its plain name; all without a name.

    Raises:
        UserError: for a name that no row has.
    """
    entries = collected.entries
    known = [entry.name for entry in entries]
    kept = chosen(names, entries, lambda e: (e.row.label, e.name, e.row.model), "no run here has such a row", known)
    ids = set(map(id, kept))
    left_out = dict.fromkeys(e.row.label for e in entries if id(e) not in ids)
    return replace(collected, entries=tuple(kept), left_out=tuple(left_out))


def _entry(source: Path, run: plan.Run, outcome: plan.Outcome, skipped: list[str]) -> Entry:
    def attempt(read):
        try:
            return read()
        except UserError as error:
            skipped.append(str(error))
            return None

    folder = outcome.folder
    series, heldout = None, []
    if run.kind == plan.IMPORTED:
        if (folder / runlog.LOGGED).exists():
            lines = attempt(lambda: read_lines(folder / runlog.LOGGED, Logged))
            series = Series(unfold(lines), known=False) if lines else None
    else:
        if (folder / runlog.STEPS).exists():
            series = attempt(lambda: _series(folder / runlog.STEPS))
        if (folder / runlog.HELDOUT).exists():
            heldout = attempt(lambda: runlog.read_heldout(folder / runlog.HELDOUT)) or []
    witness = attempt(lambda: read_json(folder / VERDICT, Verdict)) if (folder / VERDICT).exists() else None
    return Entry(outcome.row, run, outcome, source, series, heldout, witness)


def _series(path: Path) -> Series | None:
    """Read a trial's steps.

    Raises:
        UserError: where they are not 1, 2, 3, ..., or time runs backwards: a clock that was set, or two writers.
    """
    steps = read_steps(path)
    if not steps:
        return None
    series = Series(steps)
    numbers = series.numbers
    if (wrong := np.flatnonzero(numbers != np.arange(1, len(steps) + 1))).size:
        raise UserError(
            f"{path} line {wrong[0] + 1} is step {numbers[wrong[0]]}; lines must be steps 1, 2, 3 and so on."
        )
    if (back := np.flatnonzero(np.diff(series.seconds) < 0)).size:
        raise UserError(f"{path} line {back[0] + 2}: the seconds run backwards.")
    if not (np.isfinite(series.loss).all() and (np.diff(series.tokens, prepend=0) > 0).all()):
        raise UserError(f"{path}: a loss is not finite, or a step has no tokens.")
    return series


def _distinct(entries: list[Entry]) -> list[Entry]:
    """Tell rows of one name in several runs apart: as seeds of one row where nothing but the seed differs, else by their run's name."""
    named: dict[str, list[Entry]] = {}
    for entry in entries:
        named.setdefault(entry.name, []).append(entry)
    found = []
    for entry in entries:
        same = named[entry.name]
        if len({other.source for other in same}) > 1:
            if _only_seeds_differ(same):
                names = {"label": f"{entry.name} seed {entry.seed}", "group": entry.name}
            else:
                keys = [key for key in ("label", "group") if getattr(entry.row, key)]
                names = {key: f"{getattr(entry.row, key)} ({entry.source.name})" for key in keys}
            entry = replace(entry, row=msgspec.structs.replace(entry.row, **names))
        found.append(entry)
    return found


def _only_seeds_differ(entries: list[Entry]) -> bool:
    trials = [entry.outcome.trial for entry in entries]
    if None in trials or len({t.training.seed for t in trials}) < len(trials):
        return False
    blank = [
        msgspec.structs.replace(t, label="", suite="", training=msgspec.structs.replace(t.training, seed=0))
        for t in trials
    ]
    return all(t == blank[0] for t in blank)

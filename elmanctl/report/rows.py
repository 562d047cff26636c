"""Rows of a report, made of records alone: seeds put together, ranked, and marked where they are not comparable."""

import math
import statistics as plain
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np

from elmanctl import plan
from elmanctl.records import LAST, last100_loss
from elmanctl.report import differences, statistics
from elmanctl.report.collect import SHOWN, Collected, Entry, collect
from elmanctl.report.differences import Difference
from elmanctl.report.facts import budget_text, compare, facts
from elmanctl.report.footing import Footing, footing

__all__ = ["SHOWN", "Report", "ReportRow", "budget_text", "build", "of"]


UNVERIFIED = "unverified"  # in place of a receipt, where --unverified ran a kernel that none vouched for


class ReportRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row, the mean over its finished seeds. Losses in nats per byte, perplexity per byte, memory in bytes (the most of any seed).

    None where the run gave no such number. `low` and `high` bound the last-100 loss: over seeds where there are several, else over
    blocks of its 100 steps. `at_equal_tokens` and `at_equal_time` are last-100 losses up to where every row has come. `witness` is what
    was seen beside the runs on their GPUs.
    """

    label: str
    model: str
    params: int | None
    dim: int | None
    depth: int
    steps: int | None
    last100_loss: float | None
    perplexity: float | None
    heldout_loss: float | None
    tokens_per_second: float | None
    peak_memory_bytes: int | None
    status: str
    receipt: str
    execution: str
    epochs: float
    seeds: int = 1
    low: float | None = None
    high: float | None = None
    at_equal_tokens: float | None = None
    at_equal_time: float | None = None
    differs: tuple[str, ...] = ()
    message: str = ""
    witness: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Ranked runs: facts that hold for them as a whole, rows, differences to one of them, what was skipped, and notes on how to read them."""

    suite: str
    folder: str
    facts: dict[str, str]
    ranked_by: str
    rows: tuple[ReportRow, ...]
    notes: tuple[str, ...]
    differences: tuple[Difference, ...] = ()
    skipped: tuple[str, ...] = ()
    schema: int = 2

    @property
    def ok(self) -> bool:
        """Whether every row finished well."""
        return all(row.status == "ok" for row in self.rows)


def build(*folders: Path, against: str | None = None) -> Report:
    """Read the records of runs and report them; see `of`."""
    return of(collect(list(folders)), against)


def of(collected: Collected, against: str | None = None) -> Report:
    """Rank rows by last-100 loss, or by held-out loss once a row has seen its data more than once, and compare them with one of them.

    Args:
        against: the row that all are compared with; None for the best.
    Raises:
        UserError: when there is no row `against`.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in collected.entries:
        groups.setdefault(entry.name, []).append(entry)
    outcomes = {name: [e.outcome for e in entries] for name, entries in groups.items()}
    compared, notes = compare(outcomes, {name: entries[0].run for name, entries in groups.items()})
    ground = footing(groups)
    rows = [_row(name, entries, compared[name], ground) for name, entries in groups.items()]
    repeated = any(row.epochs > 1 for row in rows)
    ranked_by = "heldout_loss" if repeated else "last100_loss"
    rows.sort(key=lambda row: _rank(row, ranked_by))
    found = differences.against(groups, ground, [row.label for row in rows], against)
    return Report(
        suite=", ".join(dict.fromkeys(run.suite for run in collected.runs if run.suite)),
        folder=", ".join(map(str, collected.folders)),
        facts=facts(collected.runs, [e.outcome for e in collected.entries]),
        ranked_by=ranked_by,
        rows=tuple(rows),
        notes=(*notes, *_notes(collected, repeated), *ground.notes, *differences.notes(groups, found)),
        differences=tuple(found),
        skipped=collected.skipped,
    )


def _notes(collected: Collected, repeated: bool) -> list[str]:
    runs, notes = collected.runs, []
    if collected.left_out:
        notes.append(f"Left out here, by --only: {', '.join(collected.left_out)}.")
    if repeated:
        notes.append(
            "Ranked by held-out loss: a row went through its data more than once, so training loss rewards memory."
        )
    if any(not run.matched for run in runs if run.kind != plan.IMPORTED):
        notes.append(
            "The suite says `matched: false`: the rows differ in size, so loss compares sizes as well as models."
        )
    if any(run.kind == plan.IMPORTED for run in runs):
        notes.append(
            "Imported rows are what a log says: whether data, order and units were those of other rows is not known, so nothing is claimed "
            "of them. Their times are reckoned from the printed speed."
        )
    notes += [text for e in collected.entries if (text := _contradiction(e))]
    if seen := [f"{e.row.label} {e.witness.text()}" for e in collected.entries if e.witness]:
        notes.append(f"Seen beside the runs on their GPUs: {'; '.join(seen)}.")
    if relaxed := dict.fromkeys(name for run in runs for name in run.relaxed):
        notes.append(f"The suite waives the method's rule on {', '.join(relaxed)}.")
    if own := list(dict.fromkeys(e.name for e in collected.entries if _waived(e))):
        notes.append(
            f"The method's rule on the width is waived for {', '.join(own)}, which no multiple of it brings near the budget."
        )
    if odd := list(dict.fromkeys(e.name for e in collected.entries if _unverified(e))):
        notes.append(f"No receipt vouched for the kernel of {', '.join(odd)} when it ran (--unverified).")
    return notes


def _waived(entry: Entry) -> bool:
    """Return whether a trial waives a rule that its run does not."""
    trial = entry.outcome.trial
    return trial is not None and not set(trial.relaxed) <= set(entry.run.relaxed)


def _rank(row: ReportRow, by: str) -> tuple:
    value = getattr(row, by)
    return (value is None, value or 0.0, row.label)


def _contradiction(entry: Entry) -> str:
    """Return in what a trial's result and its steps contradict each other, if they do; steps that were cut off, or mixed up."""
    result, series = entry.outcome.result, entry.series
    if result is None or series is None or not series.known:
        return ""
    told, found = (result.steps, result.last100_loss), (len(series.steps), last100_loss(series.steps))
    if told[0] == found[0] and (None in (told[1], found[1]) or math.isclose(told[1], found[1], rel_tol=1e-9)):
        return ""
    words = [
        f"{steps:,} steps, last-100 loss {'none' if loss is None else f'{loss:.4f}'}" for steps, loss in (told, found)
    ]
    return f"{entry.row.label}: result.json has {words[0]}, steps.jsonl {words[1]}. The table shows the former."


def _unverified(entry: Entry) -> bool:
    return bool(entry.outcome.trial and entry.outcome.trial.unverified)


def _status(entry: Entry) -> str:
    result = entry.outcome.result
    if result is None:
        return "unfinished" if entry.outcome.trial else "waiting"
    if result.status == "diverged":
        return f"diverged at step {result.steps + 1}"  # steps counts those that were recorded
    return result.status


def _mean(values: list) -> float | None:
    known = [value for value in values if value is not None]
    return plain.fmean(known) if known else None


def _row(name: str, entries: list[Entry], differs: tuple[str, ...], ground: Footing) -> ReportRow:
    first = entries[0]
    results = [e.outcome.result for e in entries if e.outcome.result]
    shown = [e for e in entries if e.shown]
    last100 = _mean([e.outcome.result.last100_loss for e in shown])
    interval = None if last100 is None else _interval(shown)
    statuses = Counter(map(_status, entries))
    trial = next((e.outcome.trial for e in entries if e.outcome.trial), None)
    messages = {e.row.label: e.outcome.result.message if e.outcome.result else e.row.problem for e in entries}
    lone = len(entries) == 1
    steps, memory = _mean([r.steps for r in results]), [r.peak_memory_bytes for r in results if r.peak_memory_bytes]
    return ReportRow(
        label=name,
        model=first.row.model,
        params=trial.params if trial else first.row.params,
        dim=first.row.dim,
        depth=first.row.depth,
        steps=None if steps is None else round(steps),
        last100_loss=last100,
        perplexity=None if last100 is None else _exp(last100),
        heldout_loss=_mean([e.outcome.result.heldout_loss for e in shown]),
        tokens_per_second=_mean([r.tokens_per_second for r in results]),
        peak_memory_bytes=max(memory, default=None),
        status=", ".join(s if lone else f"{n} {s}" for s, n in statuses.items())
        if len(statuses) > 1
        else next(iter(statuses)),
        receipt=_same(
            [UNVERIFIED if _unverified(e) else e.outcome.result.receipt for e in entries if e.outcome.result]
        ),
        execution=_same([r.execution for r in results]),
        epochs=max((r.epochs for r in results), default=0.0),
        seeds=len(entries),
        low=interval and interval[0],
        high=interval and interval[1],
        at_equal_tokens=_mean([ground.loss(e, "tokens") for e in shown]),
        at_equal_time=_mean([ground.loss(e, "time") for e in shown]),
        differs=differs,
        message="; ".join(text if lone else f"{label}: {text}" for label, text in messages.items() if text),
        witness=_same([e.witness.text() for e in entries if e.witness]),
    )


def _exp(loss: float) -> float:
    try:
        return math.exp(loss)
    except OverflowError:  # above 709
        return math.inf


def _same(values: list[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _interval(shown: list[Entry]) -> tuple[float, float] | None:
    """Return the interval of a row's last-100 loss."""
    losses = [e.outcome.result.last100_loss for e in shown if e.outcome.result.last100_loss is not None]
    if len(losses) > 1:
        return statistics.independent(np.array(losses)).interval()
    series = shown[0].series if len(shown) == 1 else None
    if series is None or not series.known or last100_loss(series.steps) is None:
        return None
    return statistics.mean(series.loss[-LAST:]).interval()

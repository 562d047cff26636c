"""Rows of a report, made of records alone: ranked, and marked where they are not comparable."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from elmanctl import plan
from elmanctl.records import Budget, Training
from elmanctl.sizes import short_count, short_share

# Statuses whose losses are those of a finished run.
SHOWN = ("ok", "contaminated")


UNVERIFIED = "unverified"  # in place of a receipt, where --unverified ran a kernel that none vouched for


class ReportRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row. Losses in nats per byte, perplexity per byte, memory in bytes; None where the run gave no such number."""

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
    differs: tuple[str, ...] = ()
    message: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A ranked run: facts that hold for it as a whole, its rows, and notes on how to read them."""

    suite: str
    folder: str
    facts: dict[str, str]
    ranked_by: str
    rows: tuple[ReportRow, ...]
    notes: tuple[str, ...]
    schema: int = 1

    @property
    def ok(self) -> bool:
        """Whether every row finished well."""
        return all(row.status == "ok" for row in self.rows)


def build(folder: Path) -> Report:
    """Read a run's records and rank its rows: by last-100 loss, or by held-out loss once a row has seen its data more than once."""
    run, outcomes = plan.outcomes(folder)
    compared, notes = _compare(run, outcomes)
    rows = [_row(outcome, compared[outcome.row.label]) for outcome in outcomes]
    repeated = any(row.epochs > 1 for row in rows)
    ranked_by = "heldout_loss" if repeated else "last100_loss"
    if repeated:
        notes.append(
            "Ranked by held-out loss: a row went through its data more than once, so training loss rewards memory."
        )
    if not run.matched:
        notes.append(
            "The suite says `matched: false`: the rows differ in size, so loss compares sizes as well as models."
        )
    if run.relaxed:
        notes.append(f"The suite waives the method's rule on {', '.join(run.relaxed)}.")
    if odd := [row.label for row in rows if row.receipt == UNVERIFIED]:
        notes.append(f"No receipt vouched for the kernel of {', '.join(odd)} when it ran (--unverified).")
    rows.sort(key=lambda row: _rank(row, ranked_by))
    return Report(
        suite=run.suite,
        folder=str(folder),
        facts=_facts(run, outcomes),
        ranked_by=ranked_by,
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _rank(row: ReportRow, by: str) -> tuple:
    value = getattr(row, by)
    return (value is None, value or 0.0, row.label)


def _row(outcome: plan.Outcome, differs: tuple[str, ...]) -> ReportRow:
    row, result = outcome.row, outcome.result
    if result is None:
        status = "unfinished" if outcome.trial else "waiting"
    elif result.status == "diverged":
        status = f"diverged at step {result.steps + 1}"  # steps counts those that were recorded
    else:
        status = result.status
    shown = result is not None and result.status in SHOWN
    last100 = result.last100_loss if shown else None
    return ReportRow(
        label=row.label,
        model=row.model,
        params=outcome.trial.params if outcome.trial else row.params,
        dim=row.dim,
        depth=row.depth,
        steps=result.steps if result else None,
        last100_loss=last100,
        perplexity=None if last100 is None else math.exp(last100),
        heldout_loss=result.heldout_loss if shown else None,
        tokens_per_second=result.tokens_per_second if result else None,
        peak_memory_bytes=result.peak_memory_bytes if result else None,
        status=status,
        receipt=UNVERIFIED if outcome.trial and outcome.trial.unverified else result.receipt if result else "",
        execution=result.execution if result else "",
        epochs=result.epochs if result else 0.0,
        differs=differs,
        message=result.message if result else row.problem,
    )


def fields(outcome: plan.Outcome) -> dict[str, Any]:
    """Return what must be equal for rows to be comparable, by the name that the report uses."""
    trial, result = outcome.trial, outcome.result
    found: dict[str, Any] = {}
    if trial is not None:
        training = {name: getattr(trial.training, name) for name in Training.__struct_fields__ if name != "data"}
        found |= {name.replace("_", " "): value for name, value in training.items()}
        found |= {"budget": budget_text(trial.budget), "depth": trial.depth}
    if result is not None and result.data_hash:
        found |= {
            "data hash": result.data_hash,
            "device": result.device_name,
            "execution": result.execution,
            "norm": result.norm,
            "graph": result.graph,
            "torch": result.versions.get("torch", ""),
        }
    return found


def _compare(run: plan.Run, outcomes: list[plan.Outcome]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return, for each row, the fields in which it differs from most rows, and a sentence for each such field."""
    values = {outcome.row.label: fields(outcome) for outcome in outcomes}
    differs: dict[str, list[str]] = {label: [] for label in values}
    notes = []
    for name in dict.fromkeys(name for found in values.values() for name in found):
        given = {label: found[name] for label, found in values.items() if name in found}
        usual = Counter(given.values()).most_common(1)[0][0]
        odd = {label: value for label, value in given.items() if value != usual}
        for label in odd:
            differs[label].append(name)
        if odd:
            each = ", ".join(f"{label} {show(value)}" for label, value in odd.items())
            notes.append(f"Unequal {name}: {each}; the others {show(usual)}.")
    if run.params is not None:
        for outcome in outcomes:
            params = outcome.trial.params if outcome.trial else outcome.row.params
            if params is not None and abs(params / run.params - 1) > run.tolerance:
                differs[outcome.row.label].insert(0, f"params {params / run.params - 1:+.0%}")
    return {label: tuple(names) for label, names in differs.items()}, notes


def show(value: Any) -> str:
    """Return a compared value as text."""
    return str(value).lower() if isinstance(value, bool) else str(value) or "none"


def budget_text(budget: Budget) -> str:
    """Return a budget in words: `10 minutes`, `500 steps`, `10M tokens`."""
    if budget.tokens is not None:
        return f"{short_count(budget.tokens)} tokens"
    return f"{budget.steps} steps" if budget.steps is not None else f"{budget.minutes:g} minutes"


def _usual(values: list) -> Any:
    return Counter(values).most_common(1)[0][0] if values else None


def _facts(run: plan.Run, outcomes: list[plan.Outcome]) -> dict[str, str]:
    """Return the facts of most rows; where a row differs it is marked instead."""
    facts = {"description": run.description, "started": run.created}
    if run.params is not None:
        limit = f"within {short_share(run.tolerance)}" if run.matched else "not matched"
        facts["parameters"] = f"{short_count(run.params)}, {limit}"
    trials = [o.trial for o in outcomes if o.trial]
    results = [o.result for o in outcomes if o.result and o.result.data_hash]
    if trials:
        training = _usual([t.training for t in trials])
        facts["budget"] = _usual([budget_text(t.budget) for t in trials])
        facts["training"] = (
            f"batch {training.batch} x {training.chunk} bytes, AdamW lr {training.lr:g} {training.schedule}, "
            f"weight decay {training.weight_decay:g}, clip {training.clip:g}, seed {training.seed}"
        )
    if results:
        result = _usual([(r.data, r.data_hash) for r in results])
        facts["data"] = f"{result[0]} {result[1]}".strip()
        facts["device"] = _usual([r.device_name for r in results])
        facts["norm"] = _usual([r.norm for r in results])
        facts["CUDA graph"] = show(_usual([r.graph for r in results]))
        versions = {name: version for r in results for name, version in r.versions.items()}
        facts["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return {name: text for name, text in facts.items() if text}

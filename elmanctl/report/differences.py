"""Differences of rows to one of them, with the words that say what is known: lower, higher, cannot tell apart, or no verdict.

* At equal tokens two models have seen the very same batches, so the noise of the batches cancels in each step's difference.
* At equal time a faster model has seen other batches: nothing cancels. The held-out batches are the same for all, whatever the speed.
* With several seeds the difference is taken seed by seed, and its spread is that over seeds; with one, it is that of this one run, which
  says nothing about another seed.
* A verdict allows for all pairs of rows and for every time that seeds were added; unfinished rows get none.
"""

import msgspec
import numpy as np

from elmanctl import plan
from elmanctl.errors import UserError, did_you_mean
from elmanctl.report import statistics
from elmanctl.report.collect import Entry
from elmanctl.report.footing import Footing
from elmanctl.report.statistics import Estimate

__all__ = ["QUESTIONS", "Difference", "against", "notes"]

QUESTIONS = {"tokens": "at equal tokens", "time": "at equal time", "held-out": "on the held-out batches"}
UNITS = {"seeds": "seeds", "steps": "steps", "batches": "held-out batches"}


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Loss of `row` less that of `against`, nats per byte; negative: `row` is better.

    `basis` is what the interval is taken over: seeds, steps or (held-out) batches, `count` of them; `p_adjusted` allows for all pairs.
    `more_seeds`: how many would tell with a chance of 80 %; None where nothing says so.
    """

    row: str
    against: str
    question: str
    value: float
    low: float | None
    high: float | None
    paired: bool
    basis: str
    count: int
    p: float
    p_adjusted: float
    verdict: str
    more_seeds: int | None
    text: str


class _Found(msgspec.Struct, frozen=True):
    row: str
    estimate: Estimate
    paired: bool
    basis: str


def against(groups: dict[str, list[Entry]], ground: Footing, ranked: list[str], chosen: str | None) -> list[Difference]:
    """Compare every row with one: `chosen`, or the first of those ranked.

    Raises:
        UserError: when there is no row `chosen`.
    """
    if chosen is not None and chosen not in groups:
        raise UserError(
            f"--against {chosen}: there is no such row.{did_you_mean(chosen, groups)} Rows: {', '.join(groups)}."
        )
    usable = [name for name in ranked if any(e.shown for e in groups[name])]
    if chosen is None and not usable:
        return []
    base = chosen or usable[0]
    differences = []
    for question in QUESTIONS:
        found = []
        for name in ranked:
            if name != base and (measured := _measure(groups[name], groups[base], ground, question)):
                found.append(_Found(name, *measured))
        # Which row is best was seen in the same numbers: any of all pairs might have been the one.
        pairs = len(found) if chosen else len(found) * (len(found) + 1) // 2
        adjusted = statistics.holm([f.estimate.p for f in found], pairs)
        differences += [
            _difference(f, base, question, p, groups[f.row] + groups[base])
            for f, p in zip(found, adjusted, strict=True)
        ]
    return differences


def same_batches(a: Entry, b: Entry) -> bool:
    """Return whether two trials saw the same bytes at the same step: by what determines them, and by their hash where steps are equal."""
    (ta, ra), (tb, rb) = ((e.outcome.trial, e.outcome.result) for e in (a, b))
    if None in (ta, ra, tb, rb) or not ra.data_hash:
        return False
    keys = ("seed", "batch", "chunk")
    if ra.data_hash != rb.data_hash or any(getattr(ta.training, k) != getattr(tb.training, k) for k in keys):
        return False
    return ra.steps != rb.steps or ra.batch_hash == rb.batch_hash


def _measure(row: list[Entry], base: list[Entry], ground: Footing, question: str) -> tuple[Estimate, bool, str] | None:
    """Return the difference of two rows, whether it is paired, and over what its error is taken; None where there is nothing to compare."""
    a, b = ([e for e in entries if e.shown] for entries in (row, base))
    pairs = [(x, y) for x in a for y in b if x.seed is not None and x.seed == y.seed and same_batches(x, y)]
    if question == "held-out":
        return _held_out(pairs)
    if question == "tokens" and pairs:
        losses = [(ground.loss(x, question), ground.loss(y, question)) for x, y in pairs]
        known = [x - y for x, y in losses if x is not None and y is not None]
        if len(known) > 1:
            return statistics.independent(np.array(known)), True, "seeds"
        windows = [(ground.window(x, question), ground.window(y, question)) for x, y in pairs]
        return next(
            ((statistics.mean(x - y), True, "steps") for x, y in windows if x is not None and y is not None), None
        )
    sides = []
    for entries in (a, b):
        losses = [loss for e in entries if (loss := ground.loss(e, question)) is not None]
        windows = [w for e in entries if (w := ground.window(e, question)) is not None]
        if not losses:
            return None
        several = len(losses) > 1
        sides.append((statistics.independent(np.array(losses)) if several else statistics.mean(windows[0]), several))
    basis = "seeds" if all(several for _, several in sides) else "steps"
    return statistics.unpaired(sides[0][0], sides[1][0]), False, basis


def _held_out(pairs: list[tuple[Entry, Entry]]) -> tuple[Estimate, bool, str] | None:
    """Compare final held-out losses, which are over the same fixed batches where batch, chunk and data are the same."""
    same = [(x, y) for x, y in pairs if len({e.outcome.trial.training.eval_batches for e in (x, y)}) == 1]
    known = [(x, y) for x, y in same if None not in (x.outcome.result.heldout_loss, y.outcome.result.heldout_loss)]
    if len(known) > 1:
        values = [x.outcome.result.heldout_loss - y.outcome.result.heldout_loss for x, y in known]
        return statistics.independent(np.array(values)), True, "seeds"
    for x, y in known:
        last = [e.heldout[-1] for e in (x, y) if e.heldout]
        if len(last) == 2 and len(last[0].batches) == len(last[1].batches) > 1:
            return statistics.independent(np.subtract(last[0].batches, last[1].batches)), True, "batches"
    return None


def _difference(found: _Found, base: str, question: str, p: float, entries: list[Entry]) -> Difference:
    estimate = found.estimate
    low, high = estimate.interval() or (None, None)
    look = max(len(e.run.looks) or 1 for e in entries)
    error = statistics.allowance(look) if found.basis == "seeds" else statistics.ERROR
    reason = _no_verdict(entries, question)
    verdict, more = "cannot tell apart", None
    if reason:
        verdict = "no verdict"
    elif p < error:
        verdict = "lower" if estimate.value < 0 else "higher"
    else:
        spread = estimate.error * max(1, estimate.count if found.basis == "seeds" else 1) ** 0.5
        have = estimate.count if found.basis == "seeds" else 1
        need = (
            statistics.seeds_needed(estimate.value, spread, statistics.allowance(look + 1))
            if np.isfinite(spread)
            else None
        )
        more = None if need is None else max(1, need - have)
    return Difference(
        row=found.row,
        against=base,
        question=question,
        value=estimate.value,
        low=low,
        high=high,
        paired=found.paired,
        basis=found.basis,
        count=estimate.count,
        p=estimate.p,
        p_adjusted=p,
        verdict=verdict,
        more_seeds=more,
        text=_words(found, base, question, verdict, more, reason, (low, high), (p, error)) + _lost(entries),
    )


def _lost(entries: list[Entry]) -> str:
    """Return which seeds came to nothing and so are in no mean: those that finished may be the lucky ones."""
    lost = [f"{e.row.label} ({e.outcome.result.status})" for e in entries if e.outcome.result and not e.shown]
    return f" Not counted: {', '.join(lost)}." if lost else ""


def _no_verdict(entries: list[Entry], question: str) -> str:
    """Return why nothing may be claimed yet, or at all: trials that are still to end, or a speed that somebody else has changed."""
    pending = [e.row.label for e in entries if e.outcome.result is None]
    if pending:
        return f"still to end: {', '.join(pending)}"
    timed = question == "time" or any(e.outcome.trial and e.outcome.trial.budget.minutes is not None for e in entries)
    spoilt = [e.row.label for e in entries if e.outcome.result.status == "contaminated"]
    if spoilt and timed and question != "tokens":
        return f"contaminated, so its speed is not its own: {', '.join(spoilt)}"
    return ""


def _words(
    found: _Found,
    base: str,
    question: str,
    verdict: str,
    more: int | None,
    reason: str,
    interval: tuple[float | None, float | None],
    chance: tuple[float, float],
) -> str:
    value, where = found.estimate.value, QUESTIONS[question]
    within = "" if None in interval else f" [{interval[0]:+.4f}, {interval[1]:+.4f}]"
    how = f"{'paired' if found.paired else 'not paired'}, over {found.estimate.count} {UNITS[found.basis]}"
    number = f"{value:+.4f}{within}, {how}"
    if verdict == "no verdict":
        return f"{found.row} and {base} {where}: no verdict; {reason} ({number})."
    if verdict != "cannot tell apart":
        runs = "" if found.basis == "seeds" else " in these two runs"
        return f"{found.row} is {verdict} than {base} {where}{runs} ({number})."
    if found.estimate.value == found.estimate.error == 0:
        tell = "their losses are the very same numbers"
    elif more is None:
        tell = f"no less than {statistics.MOST_SEEDS} seeds would tell"
    elif found.basis == "seeds":
        tell = f"about {more} more seed{'s' * (more > 1)} would tell"
    else:
        tell = f"at least {more} more seed{'s' * (more > 1)} would be needed to tell, for the noise seen within one run alone"
    low, high = interval
    if low is not None and low * high > 0:  # the interval is of this difference alone and of one look
        tell = f"p {chance[0]:.3f}, where {chance[1]:.3f} is asked to allow for several rows and for seeds added later; {tell}"
    return f"{found.row} and {base} {where}: cannot tell apart ({number}); {tell}."


def notes(groups: dict[str, list[Entry]], found: list[Difference]) -> list[str]:
    """Return what holds for all differences."""
    texts = []
    if any(d.basis != "seeds" and d.verdict in ("lower", "higher") for d in found):
        texts.append(
            "Where a difference rests on one seed, it is one of these two runs; how far another seed would move it is not known. "
            "`seeds: 3` in the suite begins to tell."
        )
    looks = max((e.run.looks for entries in groups.values() for e in entries), key=len, default=())
    if len(looks) > 1:
        texts.append(
            f"Seeds were added after results were there ({', then '.join(map(str, looks))} a row): a verdict now needs p below "
            f"{statistics.allowance(len(looks)):.4f}, so that looking again and again claims no more than 1 falsehood in 20."
        )
    if (
        any(e.run.kind == plan.IMPORTED for entries in groups.values() for e in entries)
        and len(groups) > 1
        and not found
    ):
        texts.append("No differences: the logs do not say whether the rows saw the same batches.")
    return texts

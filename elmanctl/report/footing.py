"""Where every row has come: the tokens and the seconds at which all of them can be compared."""

from dataclasses import dataclass

import numpy as np

from elmanctl.records import LAST, last100_loss
from elmanctl.report.collect import Entry, Series
from elmanctl.sizes import short_count

LR_APART = 1.1  # learning rates at equal tokens that differ by more than this factor are worth a note


@dataclass(frozen=True)
class Footing:
    """The most tokens and seconds that every finished trial of at least 100 steps has seen; None where there are not two such trials."""

    tokens: float | None = None
    time: float | None = None
    notes: tuple[str, ...] = ()

    def end(self, series: Series, at: str) -> int | None:
        """Return how many steps a trial had made at equal `tokens` or `time`; None where it is not known or less than 100."""
        limit = getattr(self, at)
        if limit is None or not series.known:
            return None
        clock = series.tokens if at == "tokens" else series.seconds
        steps = int(np.searchsorted(clock, limit, side="right"))
        return steps if steps >= LAST else None

    def loss(self, entry: Entry, at: str) -> float | None:
        """Return a trial's last-100 loss at equal `tokens` or `time`."""
        end = self.end(entry.series, at) if entry.series else None
        return None if end is None else last100_loss(entry.series.steps[end - LAST : end])

    def window(self, entry: Entry, at: str) -> np.ndarray | None:
        """Return the 100 losses that `loss` is the mean of."""
        end = self.end(entry.series, at) if entry.series else None
        return None if end is None else entry.series.loss[end - LAST : end]


def footing(groups: dict[str, list[Entry]]) -> Footing:
    """Find the common ground of all trials with a finished run of known steps; at least two are needed for a comparison."""
    every = [e for entries in groups.values() for e in entries if e.shown and e.series and e.series.known]
    long = [e for e in every if len(e.series.steps) >= LAST]
    if len(long) < 2:
        return Footing()
    ground = Footing(float(min(e.series.tokens[-1] for e in long)), float(min(e.series.seconds[-1] for e in long)))
    ends = {at: [ground.end(e.series, at) for e in long] for at in ("tokens", "time")}
    notes = [
        "Compared as far as every row has come. "
        f"At equal tokens: last-100 loss up to {short_count(round(ground.tokens))} tokens ({_range(ends['tokens'])}). "
        f"At equal time: up to {ground.time:.1f} s of training ({_range(ends['time'])})."
    ]
    if None not in ends["tokens"]:
        rates = [e.series.steps[end - 1].lr for e, end in zip(long, ends["tokens"], strict=True)]
        if min(rates) > 0 and max(rates) / min(rates) > LR_APART:
            notes.append(
                f"At equal tokens the learning rate is {min(rates):.2g} in one row and {max(rates):.2g} in another, because the budget is time: "
                "a row whose rate has decayed further looks better there. Give --steps or --tokens for a clean comparison."
            )
    return Footing(ground.tokens, ground.time, tuple(notes))


def _range(steps: list[int | None]) -> str:
    """Return `710 steps` or `707 to 1,389 steps`, and how many trials had not made 100."""
    known = [n for n in steps if n is not None]
    few = f"{len(steps) - len(known)} with fewer than {LAST} steps, not shown" if len(known) < len(steps) else ""
    if not known:
        return few
    low, high = min(known), max(known)
    return ", ".join(filter(None, (f"{low:,} steps" if low == high else f"{low:,} to {high:,} steps", few)))

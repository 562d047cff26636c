"""What the pictures of a report show: curves of few points, and the Pareto front."""

import numpy as np

from elmanctl.report.collect import Entry
from elmanctl.report.rows import Report

POINTS = 240  # of a curve
BEND = 1.5  # bins are narrower at the start, where the loss falls fast


def front(report: Report) -> set[str]:
    """Return the rows that no other beats in both throughput and last-100 loss; those whose speed was contaminated are left out."""
    timed = [r for r in report.rows if r.last100_loss is not None and r.tokens_per_second is not None]
    rows = [r for r in timed if "contaminated" not in r.status]
    return {
        r.label
        for r in rows
        if not any(
            o.last100_loss <= r.last100_loss
            and o.tokens_per_second >= r.tokens_per_second
            and (o.last100_loss, o.tokens_per_second) != (r.last100_loss, r.tokens_per_second)
            for o in rows
        )
    }


def curve(entry: Entry) -> dict[str, list]:
    """Return a trial's curve: mean loss over at most POINTS bins, at the end of each its step, tokens and seconds; held-out losses by point."""
    series = entry.series
    ends = bins(len(series.steps))
    starts = np.concatenate([[0], ends[:-1]])
    loss = np.add.reduceat(series.loss, starts) / (ends - starts)
    steps = series.numbers[ends - 1]
    heldout = [[int(min(np.searchsorted(steps, h.step), len(steps) - 1)), round(h.loss, 5)] for h in entry.heldout]
    return {
        "step": steps.tolist(),
        "tokens": series.tokens[ends - 1].astype(int).tolist(),
        "seconds": np.round(series.seconds[ends - 1], 2).tolist(),
        "loss": np.round(loss, 5).tolist(),
        "heldout": heldout,
    }


def bins(steps: int) -> np.ndarray:
    """Return where at most POINTS bins over so many steps end."""
    share = np.linspace(0, 1, min(POINTS, steps) + 1)[1:]
    return (
        np.unique(np.maximum(1, np.ceil(steps * share**BEND).astype(int)))
        if steps > POINTS
        else np.arange(1, steps + 1)
    )

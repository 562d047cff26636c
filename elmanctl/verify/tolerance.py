"""The rule: a kernel's error may be at most twice the floor, in every group of elements of every tensor.

Let e be the kernel's error against the truth, and r_1 ... r_M the errors of M stochastic roundings of the reference.

* Groups: time is cut into windows of 8 steps. A group is one window of the whole tensor, or of one index of another axis (one batch
  row, one head, one channel), where windows are so long that a group has at least 48 elements; without time, the whole and each index
  of each axis. Groups below 4 elements are left to the largest element and the whole.
* Norm: L2 over the group; besides, in each window, the largest element. The denominator is the floor of the same group in the same
  norm, never the truth: a tensor of zeros cannot pass, and one bad head or chunk has only its own floor to hide behind.
  Groups below 4 elements are left to the largest element and the whole.
* Floor of a group: the largest of the M, and at least the root mean square of the M times 1 + 4/sqrt(2 n): what the largest of very
  many would be. n is how many independent elements carry the error: counted by their share (one dominating element counts as one), and
  not more than the scatter of the M between groups shows (errors that last over steps count once).
  To it comes the accumulation term ACCUMULATION * unit roundoff of the accumulator * sqrt(terms) * max|truth| of the group, per
  element, and the accumulator's smallest normal number: below it no format promises a relative error (a gradient through many small
  decays). The maximum is the group's own: one key of length 1e-6 makes gradients of 1e6, behind which all others could be zero.
"""

from dataclasses import dataclass

import numpy as np

from elmanctl.verify import origin
from elmanctl.verify.limits import Limits, divide
from elmanctl.verify.policy import FACTOR, WINDOW

SPARKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Row:
    """What the rule says about one tensor of one case.

    Args:
        ratio: worst error over limit; above 1 fails. inf for a value that is not finite.
        error: relative L2 error of the whole tensor, for reading only.
        group: where the worst ratio is, for example `t 8-15, H 2`.
        index: first bad element (by time, then position) by axis, for example `B 0, T 9, H 2, N 4`; empty where none is.
        start: first time step at which the limit is passed, or None.
        spark: error over limit against time, one character a step; `█` is the limit or more.
        origin: where a failing error is in time, in words: see origin.describe.
    """

    tensor: str
    ratio: float
    error: float
    group: str = ""
    index: str = ""
    start: int | None = None
    spark: str = ""
    origin: str = ""

    @property
    def ok(self) -> bool:
        return self.ratio <= 1.0


def judge(
    name: str,
    axes: tuple[str, ...],
    got,
    truth,
    rounded,
    accumulation: float,
    tiny: float = 0.0,
    chunk: int = WINDOW,
    limits: Limits | None = None,
) -> Row:
    """Apply the rule to one tensor.

    Args:
        name: the tensor's name.
        axes: its dimensions as declared; the one called `T` is time.
        got: what the kernel wrote, as fp64 array.
        truth: the truth, fp64, same shape.
        rounded: errors of M stochastic roundings, fp64 [M, *shape].
        accumulation, tiny: see Limits.
        chunk: the kernel's chunk length, for words on where an error starts.
        limits: those of the truth, where they are known already.
    """
    time = axes.index("T") if "T" in axes else None
    if truth.size == 0:
        return Row(name, 0.0, 0.0)
    if not np.isfinite(got).all():
        bad = ~np.isfinite(got)
        return Row(name, float("inf"), float("inf"), "not finite", first(bad, axes, time), *_start(bad, time, chunk))
    error, limits = got - truth, limits or Limits(axes, truth, rounded, accumulation, tiny)
    square, squares = error * error, rounded * rounded
    size, worst, where, flagged = np.abs(truth), 0.0, "", None
    for axis, window, largest, ratios in limits.ratios(error):
        if ratios.max() > worst:
            at = np.unravel_index(ratios.argmax(), ratios.shape)
            worst, flagged = float(ratios.max()), (axis, at, window)
            where = _group(axes, time, axis, at, truth, window) + (" (largest)" if largest else "")
    scale = np.sqrt((truth * truth).sum())
    relative = float(np.sqrt(square.sum()) / scale) if scale else float(np.sqrt(square.sum()))
    spark, start, course = _against_time(square, squares, time, size, accumulation, tiny)
    index = ""
    if worst > 1:
        element = np.sqrt(squares.mean(0).mean()) if time is None else np.sqrt(squares.mean(0))
        inside = _inside(flagged, time, truth)
        bad = np.abs(error) > FACTOR * (3.0 * element + accumulation * size[inside].max() + tiny)
        if not (bad & inside).any():
            bad = inside & (np.abs(error) >= 0.5 * np.abs(error[inside]).max())
        index = first(bad & inside, axes, time)
    if worst <= 1:
        return Row(name, worst, relative, where, spark=spark)
    return Row(name, worst, relative, where, index, start, spark, origin.describe(course, chunk))


def _group(axes, time, axis, at, truth, window) -> str:
    parts = []
    if time is not None:
        low, high = at[0] * window, min(truth.shape[time], (at[0] + 1) * window) - 1
        parts.append(f"t {low}" if low == high else f"t {low}-{high}")
    if axis is not None:
        parts.append(f"{axes[axis]} {at[1]}")
    return ", ".join(parts) or "whole"


def _inside(flagged, time, truth):
    """Return the mask of one group's elements."""
    axis, at, window = flagged
    mask = np.ones(truth.shape, dtype=bool)
    for a in range(truth.ndim):
        steps = np.arange(truth.shape[a]).reshape([-1 if b == a else 1 for b in range(truth.ndim)])
        if a == time:
            mask &= steps // window == at[0]
        elif a == axis:
            mask &= steps == at[1]
    return mask


def first(bad, axes, time) -> str:
    """Return the first true element, earliest in time, as text."""
    places = np.argwhere(bad)
    if time is not None:
        places = places[np.argsort(places[:, time], kind="stable")]
    return ", ".join(f"{axis} {i}" for axis, i in zip(axes, places[0], strict=True))


def _start(bad, time, chunk):
    if time is None:
        return None, "", ""
    steps = bad.any(axis=tuple(a for a in range(bad.ndim) if a != time))
    spark = "".join(SPARKS[-1] if b else SPARKS[1] for b in steps)
    return int(steps.argmax()), spark, origin.describe([2.0 * b for b in steps], chunk)


def _against_time(square, squares, time, size, accumulation, tiny):
    """Return the sparkline of error over limit per step, the first step above the limit, and the ratios."""
    if time is None:
        return "", None, ()
    rest = tuple(a for a in range(square.ndim) if a != time)
    count = square.size // square.shape[time]
    extra = accumulation * size.max(axis=rest) + tiny
    limit = FACTOR * (np.sqrt(squares.sum(axis=tuple(a + 1 for a in rest)).max(0)) + extra * np.sqrt(count))
    ratios = divide(np.sqrt(square.sum(axis=rest)), limit)
    over = np.flatnonzero(ratios > 1)
    marks = np.clip(np.nan_to_num(ratios, posinf=1.0) * (len(SPARKS) - 1), 0, len(SPARKS) - 1).astype(int)
    return "".join(SPARKS[m] for m in marks), int(over[0]) if len(over) else None, ratios

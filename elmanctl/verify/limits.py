"""What the rule of tolerance.py allows every group of elements of one tensor: of the truth and its roundings alone, so that many results can
be held against limits that are worked out once.
"""

import functools
from collections.abc import Iterator

import numpy as np

from elmanctl.verify.policy import AMPLE, FACTOR, SMALLEST, TAIL, WINDOW


class Limits:
    """The limits of one tensor.

    Args:
        axes: its dimensions as declared; the one called `T` is time.
        truth: fp64 array.
        rounded: errors of M stochastic roundings, fp64 [M, *shape].
        accumulation: ACCUMULATION * unit roundoff * sqrt(terms); times a group's max|truth| it is the accumulation term.
        tiny: the accumulator's smallest normal number.
    """

    def __init__(self, axes: tuple[str, ...], truth, rounded, accumulation: float, tiny: float = 0.0):
        self.truth, self.time = truth, axes.index("T") if "T" in axes else None
        # Of each axis, or None for all together: the axis, steps of a window, limit of each group, which groups are too small to count.
        self.groups: list[tuple] = []
        self.largest = None  # of the largest element of each window
        if truth.size == 0:
            return
        time, size, squares = self.time, np.abs(truth), rounded * rounded
        mean = squares.mean(0)
        parts = (squares, mean, mean * mean)
        for axis in (None, *(a for a in range(truth.ndim) if a != time and truth.shape[a] > 1)):
            window = _window(truth, time, axis)
            largest, average, carriers, count = _floor_parts(*parts, time, axis, window)
            extra = accumulation * fold(size, time, axis, window, np.maximum) + tiny
            floor = np.maximum(np.sqrt(largest), np.sqrt(average) * (1 + TAIL / np.sqrt(2 * carriers)))
            few = None if axis is None else count < SMALLEST
            self.groups.append((axis, window, FACTOR * (floor + extra * np.sqrt(count)), few))
        if truth.size > 1:
            most = fold(np.abs(rounded).max(0), time, None, WINDOW, np.maximum)
            usual = fold(np.sqrt(mean), time, None, WINDOW, np.maximum)
            extra = accumulation * fold(size, time, None, WINDOW, np.maximum) + tiny
            self.largest = FACTOR * (np.maximum(most, 2.5 * usual) + extra)

    def ratios(self, error) -> Iterator[tuple[int | None, int, bool, np.ndarray]]:
        """Yield (axis, steps of a window, whether of the largest element, error over limit of each group), in the order that ties go by."""
        square = error * error
        for axis, window, limit, few in self.groups:
            ratios = divide(np.sqrt(fold(square, self.time, axis, window)), limit)
            yield axis, window, False, ratios if few is None else np.where(few, 0.0, ratios)
        if self.largest is not None:
            yield None, WINDOW, True, divide(fold(np.abs(error), self.time, None, WINDOW, np.maximum), self.largest)

    def worst(self, got) -> float:
        """Return the worst error over limit of a result; inf where it is not finite."""
        if not np.isfinite(got).all():
            return float("inf")
        return max((float(ratios.max()) for *_, ratios in self.ratios(got - self.truth)), default=0.0)


def _window(truth, time, axis) -> int:
    """Return how many steps the groups of an axis span."""
    if time is None or axis is None:
        return WINDOW
    each = truth.size // (truth.shape[time] * truth.shape[axis])
    return max(WINDOW, -(-AMPLE // each))


def divide(error, limit):
    """Return error over limit. An error of exactly 0 passes under a limit of 0, where the truth and every rounding of it are exactly 0."""
    return np.divide(error, limit, out=np.where(error > 0, np.inf, 0.0), where=limit > 0)


def _floor_parts(squares, mean, fourth, time, axis, window):
    """Return, per group: largest and mean over the M of the sum of squares, elements that carry it, and elements.

    Args:
        squares: [M, *shape], of the errors.
        mean: of them over the M.
        fourth: its square.
    """
    sums = fold(squares, time, axis, window, before=1)
    average, count = sums.mean(0), _count(mean.shape, time, axis, window)
    quartic = fold(fourth, time, axis, window)
    share = np.divide(average**2, quartic, out=np.ones_like(quartic), where=quartic > 0)
    # A sum of n independent squares scatters by 2/n of its square. Estimated over all groups, and over those of each index alone.
    # Of the sums over their average: squares of what an underflow left would be nothing, or divide by nothing.
    scatter = count * np.divide(sums, average, out=np.ones_like(sums), where=average > 0).var(0, ddof=1)
    independent = count * 2 / np.maximum(np.maximum(scatter.mean(), scatter.mean(0)), 1e-9)
    return sums.max(0), average, np.maximum(np.minimum(share, independent), 1.0), count


@functools.lru_cache(1024)
def _count(shape, time, axis, window):
    """Return the number of elements of each group."""
    return fold(np.ones(shape), time, axis, window)


def fold(values, time, axis, window, how=np.add, before=0):
    """Reduce to [windows, indices of axis]; windows is 1 without time, indices 1 without axis. Axes `before` these stay."""
    keep = [a + before for a in (time, axis) if a is not None] + list(range(before))
    values = how.reduce(values, axis=tuple(a for a in range(values.ndim) if a not in keep))
    if time is not None and axis is not None and axis < time:
        values = values.swapaxes(before, before + 1)
    first = values.shape[:before]
    if time is None:
        return values.reshape(*first, 1, -1)
    steps = values.shape[before]
    return how.reduceat(values.reshape(*first, steps, -1), np.arange(0, steps, window), axis=before)

"""How far a number can be trusted: intervals, paired and unpaired differences, how many more seeds would tell.

* Losses of neighbouring steps are correlated, so noise is measured on blocks of steps. The standard error is that of the circular block
  bootstrap with infinitely many resamples, which has a closed form: no random numbers, the same report every time.
* A trend inside the window is the model learning, not noise: it is taken out as a straight line.
* Student's t carries the uncertainty of the noise itself: number of blocks less two (level and slope), or of seeds less one.
"""

import bisect
import math

import msgspec
import numpy as np

from elmanctl.report import student

LEVEL = 0.95  # of every interval that is shown
ERROR = 0.05  # chance of a false claim that a verdict may take, over all pairs and all looks
POWER = 0.8  # chance with which "n more seeds" would tell
MOST_SEEDS = 1000


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A number with its standard error and the degrees of freedom of that error; `count` values went in."""

    value: float
    error: float
    freedom: float
    count: int

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """Return the interval that holds the true value with a probability of `level`; None for a single value."""
        if not self.freedom > 0:
            return None
        half = student.quantile(level, self.freedom) * self.error
        return self.value - half, self.value + half

    @property
    def p(self) -> float:
        """The chance of a value at least this far from zero if the truth is zero; 1 where nothing is known of the error."""
        if not self.freedom > 0:
            return 1.0
        return student.tail(self.value / self.error, self.freedom) if self.error > 0 else float(self.value == 0)


def block_length(residuals: np.ndarray) -> int:
    """Return how many neighbouring values form a block: three times the time over which they are correlated, at least n^(1/3), at most n/5."""
    n = len(residuals)
    variance = float(residuals @ residuals)
    time, lag = 1.0, 1
    while variance > 0 and lag < n // 4:
        correlation = float(residuals[lag:] @ residuals[:-lag]) / variance
        if correlation < 2 / math.sqrt(n):
            break
        time += 2 * correlation
        lag += 1
    return max(1, min(math.ceil(max(3 * time if time > 1 else 1, n ** (1 / 3))), n // 5))


def mean(values: np.ndarray) -> Estimate:
    """Estimate the mean of values that follow one another, by blocks.

    Args:
        values: float64 [n], in the order of the steps; n >= 10 or the error is unknown (freedom 0).
    """
    n, value = len(values), float(np.mean(values)) if len(values) else math.nan
    if n < 10:
        return Estimate(value=value, error=math.inf, freedom=0, count=n)
    time = np.arange(n) - (n - 1) / 2
    centred = values - value
    residuals = centred - time * (time @ centred) / (time @ time)
    length = block_length(residuals)
    around = np.concatenate([[0.0], np.cumsum(np.concatenate([residuals, residuals[: length - 1]]))])
    blocks = (around[length:] - around[:-length]) / length  # every block, the circle closed
    number = n / length
    # A block mean varies less about the fitted line than about the truth: level and slope were taken from the same values.
    error = math.sqrt(float(blocks @ blocks) / n / (number - 2))
    return Estimate(value=value, error=error, freedom=number - 2, count=n)


def independent(values: np.ndarray) -> Estimate:
    """Estimate the mean of values that have nothing to do with each other, such as one a seed."""
    n, value = len(values), float(np.mean(values)) if len(values) else math.nan
    if n < 2:
        return Estimate(value=value, error=math.inf, freedom=0, count=n)
    return Estimate(value=value, error=float(np.std(values, ddof=1)) / math.sqrt(n), freedom=n - 1, count=n)


def unpaired(a: Estimate, b: Estimate) -> Estimate:
    """Estimate a - b of two numbers that share no noise (Welch)."""
    if not (a.freedom > 0 and b.freedom > 0):
        return Estimate(value=a.value - b.value, error=math.inf, freedom=0, count=min(a.count, b.count))
    variance = a.error**2 + b.error**2
    parts = a.error**4 / a.freedom + b.error**4 / b.freedom
    return Estimate(
        value=a.value - b.value,
        error=math.sqrt(variance),
        freedom=variance**2 / parts if parts else min(a.freedom, b.freedom),
        count=min(a.count, b.count),
    )


def holm(values: list[float], tests: int | None = None) -> list[float]:
    """Return p values that allow for having made several tests at once (Holm). `tests`: how many, at least those given."""
    tests = max(tests or 0, len(values))
    adjusted, before = [1.0] * len(values), 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        before = max(before, min(1.0, values[i] * (tests - rank)))
        adjusted[i] = before
    return adjusted


def allowance(look: int) -> float:
    """Return the share of ERROR that the n-th look at growing data may spend: 1/2, 1/6, 1/12, ... which add up to 1.

    Whoever adds seeds until a difference appears would otherwise find one sooner or later (a guard against peeking).
    """
    return ERROR / (look * (look + 1))


def seeds_needed(difference: float, spread: float, error: float = ERROR) -> int | None:
    """Return with how many seeds a difference would be seen with a chance of POWER; None for more than MOST_SEEDS.

    Args:
        spread: standard deviation of the difference from seed to seed; error: chance of a false claim.
    """

    def enough(n: int) -> bool:
        needed = student.quantile(1 - error, n - 1) + student.quantile(2 * POWER - 1, n - 1)
        return difference != 0 and abs(difference) >= needed * spread / math.sqrt(n)

    found = bisect.bisect_left(range(MOST_SEEDS + 1), True, lo=2, key=enough)
    return found if found <= MOST_SEEDS else None

"""Student's t distribution, so that a report needs no scipy: by the continued fraction of the incomplete beta function."""

import math
from functools import lru_cache

TERMS = 120  # far more than 12 digits take for the degrees of freedom that occur


def tail(t: float, freedom: float) -> float:
    """Return the probability that a t variable of `freedom` degrees lies further from zero than t, on either side."""
    if math.isinf(freedom):
        return math.erfc(abs(t) / math.sqrt(2))
    return _beta(freedom / (freedom + t * t), freedom / 2, 0.5)


@lru_cache(maxsize=4096)
def quantile(level: float, freedom: float) -> float:
    """Return the t beyond which lies (1 - level) / 2 on each side: 1.96 for 0.95 and infinite freedom."""
    low, high = 0.0, 1.0
    while tail(high, freedom) > 1 - level:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle, freedom) > 1 - level else (low, middle)
    return (low + high) / 2


def _beta(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b). Source: Abramowitz and Stegun, 26.5.8, from the last term backwards."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    value = 1.0
    for i in range(TERMS, 0, -1):
        m = i // 2
        odd = i % 2
        top = -(a + m) * (a + b + m) if odd else m * (b - m)
        value = 1 + top * x / ((a + i - 1) * (a + i)) / value
    return front / (a * value)

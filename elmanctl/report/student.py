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
    t = max(0.1, -math.log(1 - level))
    for _ in range(60):  # Newton's method on the logarithm of the tail, which is nearly straight
        beyond = tail(t, freedom)
        step = math.log(beyond / (1 - level)) * beyond / (2 * density(t, freedom))
        t += min(step, t)
        if abs(step) < 1e-12 * t:
            break
    return t


def density(t: float, freedom: float) -> float:
    """Return the density of Student's t."""
    if math.isinf(freedom):
        return math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    front = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    return math.exp(front - (freedom + 1) / 2 * math.log1p(t * t / freedom)) / math.sqrt(freedom * math.pi)


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

"""Where an error starts, from its course over time: in a tail, at a chunk edge, at one end, growing one way or the other."""

from collections.abc import Sequence

GROWTH = 4.0  # an error that ends so many times larger than it starts is said to grow
MOST = 1e30  # what is infinitely bad counts as so much, and is not larger than itself


def describe(course: Sequence[float], chunk: int) -> str:
    """Say in a few words where an error is.

    Args:
        course: error over limit of each time step; above 1 is bad.
        chunk: the kernel's chunk length.
    Returns:
        for example `the tail, a partial chunk`, `growing backwards from t 12`; nothing where no step is bad alone.
    """
    bad, steps = [t for t, ratio in enumerate(course) if ratio > 1], len(course)
    if not bad or steps == 1:
        return ""
    low, high = bad[0], bad[-1]
    whole = len(bad) == high - low + 1
    tail = steps % chunk
    if tail and steps > chunk and low >= steps - tail:
        return "the tail, a partial chunk"
    if whole and low == high:
        alone = {0: "the first step alone", steps - 1: "the last step alone"}
        if low in alone:
            return alone[low]
    for offset, side in ((0, "first"), (chunk - 1, "last")):
        if all(t % chunk == offset for t in bad):
            return f"chunk edges, the {side} step of a chunk" if len(bad) > 1 else f"a chunk edge, t {low}"
    if whole:
        edge = ", a chunk edge" if low and low % chunk == 0 else ""
        if high == steps - 1 and _mean(course, high) >= GROWTH * _mean(course, low):
            return f"growing from t {low}{edge}"
        if low == 0 and _mean(course, low) >= GROWTH * _mean(course, high):
            return f"growing backwards from t {high}" + (", a chunk edge" if (high + 1) % chunk == 0 else "")
        if len(bad) == steps:
            return "every step"
        if high == steps - 1:
            return f"from t {low}{edge} to the end"
        if low % chunk == 0 and (high + 1) % chunk == 0:
            return f"whole chunks, t {low} to {high}"
        return f"t {low} to {high}"
    return f"{len(bad)} of {steps} steps"


def _mean(course: Sequence[float], at: int) -> float:
    """Return the mean of up to three steps that start or end at a step, inwards."""
    part = course[at : at + 3] if at < len(course) / 2 else course[max(0, at - 2) : at + 1]
    return sum(min(ratio, MOST) for ratio in part) / len(part)

"""Tensors of the E67lr kernel: h[t] from alpha = sigmoid(wx + U (V h[t-1])) and a candidate of the input."""

from elmanctl.families import gated
from elmanctl.families.gated import constants

__all__ = ["constants", "kernel", "verify_sizes"]

kernel = gated.kernel(__package__, inputs=2, kept=2, division=gated.low_rank(1280, 160))


def verify_sizes(config) -> dict[str, int]:
    """Return sizes to verify at: a rank of two tiles."""
    return {"R": 32}

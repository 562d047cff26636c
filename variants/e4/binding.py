"""Tensors of the E4 kernel: h[t] = tanh(wx + U (V h[t-1])), read out through the gate z."""

from elmanctl.families import gated
from elmanctl.families.gated import constants

__all__ = ["constants", "kernel", "verify_sizes"]

kernel = gated.kernel(__package__, inputs=1, kept=1, division=gated.low_rank(1280, 160), gates=("z",))


def verify_sizes(config) -> dict[str, int]:
    """Return sizes to verify at: a rank of two tiles."""
    return {"R": 32}

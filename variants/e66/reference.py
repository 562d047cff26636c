"""E66 in plain PyTorch, README.md, equations 1 and 2. The truth that the kernel is measured against."""

from elmanctl.families import dense_reference as dense
from elmanctl.families import gated_reference as gated
from elmanctl.families.dense_reference import exact
from elmanctl.families.gated_reference import DRAWS, Blend, weight_gradients
from elmanctl.families.gated_stepwise import Stepwise

__all__ = ["DRAWS", "draw", "forward", "stepwise", "weight_gradients"]

CELL = Blend()


def forward(wx, U, V, h0, *, constants=None, at=exact):
    """Run the recurrence; shapes in families/gated_reference.py."""
    return gated.run(CELL, dense.self_gate, gated.low_rank(U, V), wx, h0, at=at)


def stepwise(constants):
    """Return the per-step mode."""
    return Stepwise(CELL, dense.self_gate, dense.self_gate_slopes)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64."""
    return gated.draw(kind, shapes, randn)

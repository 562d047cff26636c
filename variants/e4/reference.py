"""E4 in plain PyTorch, README.md, equations 2 and 3. The truth that the kernel is measured against."""

import torch

from elmanctl.families import dense_reference as dense
from elmanctl.families import gated_reference as gated
from elmanctl.families.dense_reference import exact
from elmanctl.families.gated_reference import DRAWS, Cell, weight_gradients
from elmanctl.families.gated_stepwise import Stepwise

__all__ = ["DRAWS", "draw", "forward", "stepwise", "weight_gradients"]


class Tanh(Cell):
    """h = tanh(pre[0])."""

    inputs = 1

    def step(self, pre, state):
        h = torch.tanh(pre[0])
        return h, h, [h]

    def slopes(self, wx, kept, former):
        return [(1 - kept[0]) * (1 + kept[0]), torch.zeros_like(kept[0])]


CELL = Tanh()


def forward(wx, z, U, V, h0, *, constants=None, at=exact):
    """Run the recurrence; shapes in families/gated_reference.py."""
    return gated.run(CELL, dense.gated, gated.low_rank(U, V), wx, h0, z, at=at)


def stepwise(constants):
    """Return the per-step mode."""
    return Stepwise(CELL, dense.gated, dense.gated_slopes, ("z",))


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64."""
    return gated.draw(kind, shapes, randn)

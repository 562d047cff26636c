"""E67lr in plain PyTorch, README.md, equations 1 and 2. The truth that the kernel is measured against."""

import torch

from elmanctl.families import dense_reference as dense
from elmanctl.families import gated_reference as gated
from elmanctl.families.dense_reference import exact
from elmanctl.families.gated_reference import DRAWS, Cell, weight_gradients
from elmanctl.families.gated_stepwise import Stepwise

__all__ = ["DRAWS", "draw", "forward", "stepwise", "weight_gradients"]


class StateGate(Cell):
    """h = alpha h' + (1 - alpha) v with alpha = sigmoid(pre[0]) and v = tanh(pre[1]), which does not see the state."""

    inputs = 2

    def step(self, pre, state):
        h = torch.sigmoid(pre[0]) * state + torch.sigmoid(-pre[0]) * torch.tanh(pre[1])
        return h, h, [h, pre[0]]

    def slopes(self, wx, kept, former):
        v, alpha, rest = torch.tanh(wx[1]), torch.sigmoid(kept[1]), torch.sigmoid(-kept[1])
        return [(former - v) * alpha * rest, rest * (1 - v) * (1 + v), alpha]


CELL = StateGate()


def forward(wx, U, V, h0, *, constants=None, at=exact):
    """Run the recurrence; shapes in families/gated_reference.py."""
    return gated.run(CELL, dense.self_gate, gated.low_rank(U, V), wx, h0, at=at)


def stepwise(constants):
    """Return the per-step mode."""
    return Stepwise(CELL, dense.self_gate, dense.self_gate_slopes)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64."""
    return gated.draw(kind, shapes, randn)

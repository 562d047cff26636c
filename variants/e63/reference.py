"""E63 in plain PyTorch, README.md, equations 1 and 2. The truth that the kernel is measured against."""

import torch

from elmanctl.families import dense_reference as dense
from elmanctl.families import gated_reference as gated
from elmanctl.families.dense_reference import exact
from elmanctl.families.gated_reference import DRAWS, Blend, Cell, weight_gradients
from elmanctl.families.gated_stepwise import Stepwise

__all__ = ["DRAWS", "draw", "forward", "stepwise", "weight_gradients"]


class TwoGates(Cell):
    """h = alpha h' + beta u with u = tanh(pre[0]); with three sums both gates depend on the state."""

    inputs = 3

    def __init__(self, sums: int):
        self.sums = sums

    def step(self, pre, state):
        u, alpha, beta = torch.tanh(pre[0]), torch.sigmoid(pre[1]), torch.sigmoid(pre[2])
        h = alpha * state + beta * u
        return h, h, [h, u] if self.sums == 1 else [h, u, alpha, beta]

    def slopes(self, wx, kept, former):
        u = kept[1]
        alpha, beta = kept[2:] or (torch.sigmoid(wx[1]), torch.sigmoid(wx[2]))
        return [beta * (1 - u) * (1 + u), former * alpha * (1 - alpha), u * beta * (1 - beta), alpha]


class Added(Cell):
    """h = h' + alpha u with u = tanh(pre[0])."""

    inputs = 2

    def step(self, pre, state):
        u = torch.tanh(pre[0])
        h = state + torch.sigmoid(pre[1]) * u
        return h, h, [h, u]

    def slopes(self, wx, kept, former):
        u, alpha = kept[1], torch.sigmoid(wx[1])
        return [alpha * (1 - u) * (1 + u), u * alpha * (1 - alpha), torch.ones_like(u)]


CELLS = (Blend(), TwoGates(1), TwoGates(3), Added())


def forward(wx, W, h0, *, constants, at=exact):
    """Run the recurrence; shapes in families/gated_reference.py."""
    return gated.run(CELLS[constants["FORM"]], dense.self_gate, gated.square(W), wx, h0, at=at)


def stepwise(constants):
    """Return the per-step mode."""
    return Stepwise(CELLS[constants["FORM"]], dense.self_gate, dense.self_gate_slopes)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64."""
    return gated.draw(kind, shapes, randn)

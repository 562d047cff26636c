"""cudalstm in plain PyTorch, README.md, equations 1 to 3. The truth that the kernel is measured against."""

import torch

from elmanctl.families import dense_reference as dense
from elmanctl.families import gated_reference as gated
from elmanctl.families.dense_reference import exact
from elmanctl.families.gated_reference import DRAWS, Cell, weight_gradients
from elmanctl.families.gated_stepwise import Stepwise

__all__ = ["DRAWS", "draw", "forward", "stepwise", "weight_gradients"]


class Memory(Cell):
    """s = f s' + i c, h = o tanh(s); the gates f, i, o and the candidate c in this order."""

    inputs = sums = 4
    local = True

    def step(self, pre, state):
        f, i, o = (torch.sigmoid(p) for p in pre[:3])
        c = torch.tanh(pre[3])
        s = f * state + i * c
        return o * torch.tanh(s), s, [s, f, i, o, c]

    def output(self, kept):
        return kept[3] * torch.tanh(kept[0])

    def slopes(self, wx, kept, former):
        s, f, i, o, c = kept
        read = torch.tanh(s)
        gates = [former * f * (1 - f), c * i * (1 - i), read * o * (1 - o), i * (1 - c) * (1 + c)]
        return [*gates, o * (1 - read) * (1 + read), f]

    def back(self, slopes, d_h, carry):
        e = carry + d_h * slopes[4]
        return [e * slopes[0], e * slopes[1], d_h * slopes[2], e * slopes[3]], e * slopes[5]


CELL = Memory()


def forward(wx, W, h0, s0, *, constants=None, at=exact):
    """Run the recurrence; shapes in families/gated_reference.py."""
    return gated.run(CELL, dense.plain, gated.square(W), wx, h0, s0=s0, at=at)


def stepwise(constants):
    """Return the per-step mode."""
    return Stepwise(CELL, dense.plain, dense.plain_slopes)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64."""
    return gated.draw(kind, shapes, randn)

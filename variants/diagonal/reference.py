"""The diagonal recurrence in plain PyTorch: h[t] = phi(alpha h[t-1] + wx[t]), y[t] = h[t] silu(x[t] + b_g). The kernel is measured against it."""

import torch.nn.functional as F

from elmanctl.families import pointwise_reference as pointwise
from elmanctl.families.pointwise_reference import DRAWS, exact, weight_gradients

__all__ = ["DRAWS", "draw", "forward", "weight_gradients"]


def forward(wx, x, bias, alpha, h0, *, constants, at=exact):
    """Run README.md, equations 2 and 3; bias is b, then b_g."""

    def update(h, wx, q):
        pre = alpha * h + wx
        return pointwise.tanh(at, pre) if constants["TANH"] else pre

    def readout(h, wx, q):
        return h * F.silu(q)

    return pointwise.run(update, readout, [wx, x], h0, bias)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64."""
    return pointwise.draw(kind, shapes, randn, vectors=("alpha",))

"""E68 in plain PyTorch: h[t] = keep h[t-1] + (1 - keep) tanh(x[t]) sigmoid(w_g h[t-1] + b_g), keep = sigmoid(a[t]).

The inhibiting form has -w_g |h[t-1]| in place of w_g h[t-1]. The kernel is measured against it.
"""

import torch

from elmanctl.families import pointwise_reference as pointwise
from elmanctl.families.pointwise_reference import DRAWS, exact, weight_gradients

__all__ = ["DRAWS", "draw", "forward", "weight_gradients"]


def forward(proj, bias, w_g, b_g, h0, *, constants, at=exact):
    """Run README.md, equations 1 to 3; proj [B, T, 2 D] is a, then x."""

    def update(h, a, x):
        seen = -h.abs() if constants["INHIBIT"] else h
        return pointwise.mix(a, h, pointwise.tanh(at, x) * torch.sigmoid(w_g * seen + b_g))

    return pointwise.run(update, pointwise.self_gate, proj.chunk(2, -1), h0, bias)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64."""
    return pointwise.draw(kind, shapes, randn, vectors=("w_g", "b_g"))

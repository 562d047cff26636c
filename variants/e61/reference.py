"""E61 in plain PyTorch: h[t] = keep h[t-1] + (1 - keep) v[t], keep = sigmoid(a[t]), and its two small forms. The kernel is measured against it."""

import torch

from elmanctl.families import pointwise_reference as pointwise
from elmanctl.families.pointwise_reference import DRAWS, exact, weight_gradients

__all__ = ["DRAWS", "draw", "forward", "weight_gradients"]


def forward(proj, bias, h0, *, constants, at=exact):
    """Run README.md, equations 1 to 3; proj [B, T, I D]."""

    def mix(h, a, v):
        return pointwise.mix(a, h, v)

    def sum(h, a, v):
        return torch.sigmoid(a) * h + v

    def shared(h, p):
        return pointwise.mix(p, h, pointwise.tanh(at, p))

    update = (mix, sum, shared)[constants["FORM"]]
    return pointwise.run(update, pointwise.self_gate, proj.chunk(constants["I"], -1), h0, bias)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64."""
    return pointwise.draw(kind, shapes, randn)

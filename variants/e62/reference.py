"""E62 in plain PyTorch: h[t] = (1 - k) h[t-1] + k tanh(q[t]), k = sigmoid(b[t]), where `decay` is asked for with a decay of h[t-1]."""

import torch

from elmanctl.families import pointwise_reference as pointwise
from elmanctl.families.pointwise_reference import DRAWS, exact, weight_gradients

__all__ = ["DRAWS", "draw", "forward", "weight_gradients"]


def forward(proj, bias, h0, *, constants, at=exact):
    """Run README.md, equations 1 to 3; proj [B, T, I D]."""

    def mix(h, k, v):
        return pointwise.mix(-k, h, pointwise.tanh(at, v))

    def decay(h, k, v, a):
        return mix(torch.sigmoid(a) * h, k, v)

    update = decay if constants["I"] == 3 else mix
    return pointwise.run(update, pointwise.self_gate, proj.chunk(constants["I"], -1), h0, bias)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64."""
    return pointwise.draw(kind, shapes, randn)

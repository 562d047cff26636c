"""E72 in plain PyTorch: values gated by the memory. The truth that the kernel is measured against."""

import torch

from elmanctl.families import matrix_reference as matrix
from elmanctl.families.matrix_reference import DRAWS, exact

from .binding import PARAMETERS

__all__ = ["DRAWS", "draw", "forward", "weight_gradients"]


def forward(projected, retain_bias, memory, value_bias, s0, *, constants, at=exact):
    """Run README.md, equations 2 to 6; retain_bias, memory and value_bias [H, N], other shapes in families/matrix.py."""
    q, k, v, logit = matrix.split(projected, 4, s0)
    a = torch.sigmoid(logit + retain_bias)

    def step(s, t):
        seen = matrix.read(s, k[:, t])
        gate = torch.sigmoid(memory * (-seen.abs() if constants["INVERSE"] else seen) + value_bias)
        return a[:, t, ..., None] * s + matrix.outer((1 - a[:, t]) * v[:, t] * gate, k[:, t])

    return matrix.run(step, q, s0, projected.dtype)


def weight_gradients(t):
    """Return the gradients of the parameters for each row."""
    return matrix.sums(t, *PARAMETERS)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64; `extreme`: retention gates at 0 and 1."""
    x = matrix.draw(kind, shapes, randn, bounded=False)
    x["retain_bias"] = 2.0 + 0.5 * x["retain_bias"]
    x["memory"] = 0.5 + 0.2 * x["memory"]
    x["value_bias"] = 0.5 * x["value_bias"]
    if kind == "extreme":
        matrix.vectors(x["projected"], x["s0"])[3].mul_(16.0)
    return x

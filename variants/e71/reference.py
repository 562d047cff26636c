"""E71 in plain PyTorch: a retention gate that looks at the memory. The truth that the kernel is measured against."""

import torch

from elmanctl.families import matrix_reference as matrix
from elmanctl.families.matrix_reference import DRAWS, exact

from .binding import PARAMETERS

__all__ = ["DRAWS", "draw", "forward", "weight_gradients"]


def forward(projected, memory, bias, s0, *, constants, at=exact):
    """Run README.md, equations 2 to 5; memory and bias [H, N], other shapes in families/matrix.py."""
    q, k, v, logit = matrix.split(projected, 4, s0)

    def step(s, t):
        a = torch.sigmoid(logit[:, t] + memory * matrix.read(s, k[:, t]) + bias)
        return a[..., None] * s + matrix.outer((1 - a) * v[:, t], k[:, t])

    return matrix.run(step, q, s0, projected.dtype)


def weight_gradients(t):
    """Return the gradients of memory and bias."""
    return matrix.sums(t, *PARAMETERS)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64; `extreme`: gates at 0 and 1."""
    x = matrix.draw(kind, shapes, randn, bounded=False)
    x["memory"] = 0.1 + 0.05 * x["memory"]
    x["bias"] = 2.0 + 0.5 * x["bias"]
    if kind == "extreme":
        matrix.vectors(x["projected"], x["s0"])[3].mul_(16.0)
    return x

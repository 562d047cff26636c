"""E73 in plain PyTorch: the modulated delta rule and the plain form. The truth that the kernel is measured against."""

import torch

from elmanctl.families import matrix_reference as matrix
from elmanctl.families.matrix_reference import DRAWS, exact

from .binding import PARAMETERS

__all__ = ["DRAWS", "draw", "forward", "weight_gradients"]


def forward(projected, bias, s0, *, constants, at=exact):
    """Run README.md, equations 2 to 5; bias [H, N], other shapes in families/matrix.py."""
    q, k, v, logit = matrix.split(projected, 4, s0)
    z = logit + bias
    if constants["PLAIN"]:
        z = torch.tanh(z)
    else:
        k = matrix.unit(k)

    def modulated(s, t):
        s = s * z[:, t, :, :, None] if constants["ROW"] else s
        return s * z[:, t, :, None, :] if constants["COLUMN"] else s

    def step(s, t):
        if constants["PLAIN"]:
            new = modulated(s, t) + matrix.outer(v[:, t], k[:, t])
        else:
            new = s + matrix.outer(v[:, t] - matrix.read(modulated(s, t), k[:, t]), k[:, t])
        return at("tanh", torch.tanh(new))

    return matrix.run(step, q, s0, projected.dtype)


def weight_gradients(t):
    """Return the gradient of the modulation's bias."""
    return matrix.sums(t, *PARAMETERS)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64; `extreme`: modulations of 0 and 3 (delta), or 1 and -1 (plain)."""
    x = matrix.draw(kind, shapes, randn, bounded=True)
    z = matrix.vectors(x["projected"], x["s0"])[3]
    x["bias"] = 1.0 + 0.2 * x["bias"]
    z *= 0.5
    if kind == "extreme":
        z.copy_(20.0 * z if constants["PLAIN"] else torch.where(z > 0, 3.0, 0.0) - x["bias"])
    return x

"""minLSTM in plain PyTorch: h[t] = f' h[t-1] + (1 - f') g(u[t]), f' the share of sigmoid(f[t]) in sigmoid(f[t]) + sigmoid(i[t])."""

import torch

from elmanctl.families import pointwise_reference as pointwise
from elmanctl.families.pointwise_reference import DRAWS, exact

__all__ = ["DRAWS", "draw", "forward"]


def forward(proj, h0, *, constants=None, at=exact):
    """Run README.md, equations 1 and 2; proj [B, T, 3 D] is u, then f, then i."""

    def update(h, u, f, i):
        forget, take = torch.sigmoid(f), torch.sigmoid(i)
        return (forget * h + take * pointwise.positive(u)) / (forget + take)

    return pointwise.run(update, pointwise.plain, proj.chunk(3, -1), h0)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64."""
    return pointwise.draw(kind, shapes, randn)

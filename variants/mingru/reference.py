"""minGRU in plain PyTorch: h[t] = (1 - sigmoid(k[t])) h[t-1] + sigmoid(k[t]) g(u[t]). The truth that the kernel is measured against."""

from elmanctl.families import pointwise_reference as pointwise
from elmanctl.families.pointwise_reference import DRAWS, exact

__all__ = ["DRAWS", "draw", "forward"]


def forward(proj, h0, *, constants=None, at=exact):
    """Run README.md, equations 1 and 2; proj [B, T, 2 D] is u, then k."""

    def update(h, u, k):
        return pointwise.mix(-k, h, pointwise.positive(u))

    return pointwise.run(update, pointwise.plain, proj.chunk(2, -1), h0)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64."""
    return pointwise.draw(kind, shapes, randn)

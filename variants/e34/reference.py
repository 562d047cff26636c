"""E34 in plain PyTorch: h[t] = tanh(proj[t] + delta h[t-1]), y[t] = h[t] silu(h[t]). The truth that the kernel is measured against."""

from elmanctl.families import pointwise_reference as pointwise
from elmanctl.families.pointwise_reference import DRAWS, exact, weight_gradients

__all__ = ["DRAWS", "draw", "forward", "weight_gradients"]


def forward(proj, bias, delta, h0, *, constants=None, at=exact):
    """Run README.md, equations 2 and 3."""

    def update(h, x):
        return pointwise.tanh(at, x + delta * h)

    return pointwise.run(update, pointwise.self_gate, [proj], h0, bias)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64."""
    return pointwise.draw(kind, shapes, randn, vectors=("delta",))

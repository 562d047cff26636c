"""E64 in plain PyTorch: h[t] = keep h[t-1] + (1 - keep) tanh(h[t-1] + x[t]), keep = sigmoid(a[t]). The kernel is measured against it."""

from elmanctl.families import pointwise_reference as pointwise
from elmanctl.families.pointwise_reference import DRAWS, exact, weight_gradients

__all__ = ["DRAWS", "draw", "forward", "weight_gradients"]


def forward(proj, bias, h0, *, constants=None, at=exact):
    """Run README.md, equations 1 to 3; proj [B, T, 2 D] is a, then x."""

    def update(h, a, x):
        return pointwise.mix(a, h, pointwise.tanh(at, h + x))

    return pointwise.run(update, pointwise.self_gate, proj.chunk(2, -1), h0, bias)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64."""
    return pointwise.draw(kind, shapes, randn)

"""E37 in plain PyTorch: h[t] = tanh(W (x[t] + h[t-1]) + b), y[t] = h[t] silu(h[t]). The truth that the kernel is measured against."""

from elmanctl.families import dense_reference as dense
from elmanctl.families import tied_reference as tied
from elmanctl.families.tied_reference import DRAWS, exact, weight_gradients

__all__ = ["DRAWS", "draw", "forward", "stepwise", "weight_gradients"]

PARTS = tied.Parts(dense.tanh, dense.tanh_slope, dense.self_gate, dense.self_gate_slopes)


def forward(u, W, b, h0, *, constants=None, at=exact):
    """Run README.md, equations 2 and 3; shapes in families/tied_reference.py."""
    return tied.run(PARTS, u, W, b, h0, constants, at)


def stepwise(constants):
    """Return both passes with one library product a step."""
    return tied.Stepwise(PARTS, constants)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64; tanh bounds the state."""
    return tied.draw(kind, shapes, randn, bounded=True)

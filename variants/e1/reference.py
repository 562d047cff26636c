"""E1 in plain PyTorch: h[t] = tanh(wx[t] + W h[t-1]), y[t] = h[t] silu(z[t]). The truth that the kernel is measured against."""

from elmanctl.families import dense_reference as dense
from elmanctl.families.dense_reference import DRAWS, exact, weight_gradients

__all__ = ["DRAWS", "draw", "forward", "readout", "readout_slopes", "state", "state_slope", "weight_gradients"]

state, state_slope = dense.tanh, dense.tanh_slope
readout, readout_slopes = dense.gated, dense.gated_slopes


def forward(wx, z, W, h0, *, constants=None, at=exact):
    """Run README.md, equations 2 and 3; shapes in families/dense_reference.py."""
    return dense.run(state, readout, wx, W, h0, z, at=at)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64; tanh bounds the state."""
    return dense.draw(kind, shapes, randn, bounded=True)

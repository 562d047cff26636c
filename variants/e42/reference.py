"""E42 in plain PyTorch: h[t] = wx[t] + W h[t-1], y[t] = h[t] silu(h[t]). The truth that the kernel is measured against."""

from elmanctl.families import dense_reference as dense
from elmanctl.families.dense_reference import DRAWS, exact, weight_gradients

__all__ = ["DRAWS", "draw", "forward", "readout", "readout_slopes", "state", "state_slope", "weight_gradients"]

state, state_slope = dense.linear, dense.linear_slope
readout, readout_slopes = dense.self_gate, dense.self_gate_slopes


def forward(wx, W, h0, *, constants=None, at=exact):
    """Run README.md, equations 2 and 3; shapes in families/dense_reference.py."""
    return dense.run(state, readout, wx, W, h0, at=at)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64; the state is not bounded."""
    return dense.draw(kind, shapes, randn, bounded=False)

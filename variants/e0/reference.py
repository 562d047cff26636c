"""E0 in plain PyTorch: h[t] = tanh(wx[t] + W h[t-1]), read out by a choice of gates. The truth that the kernel is measured against."""

from elmanctl.families import dense_reference as dense
from elmanctl.families.dense_reference import DRAWS, exact, weight_gradients

__all__ = ["DRAWS", "draw", "forward", "parts", "weight_gradients"]

READOUTS = (
    (dense.plain, dense.plain_slopes),
    (dense.gated, dense.gated_slopes),
    (dense.sum_gated, dense.sum_gated_slopes),
)


def parts(constants):
    """Return the elementwise parts that GATE chooses."""
    return dense.Parts(dense.tanh, dense.tanh_slope, *READOUTS[constants["GATE"]])


def forward(wx, q, W, h0, *, constants, at=exact):
    """Run README.md, equations 2 and 3; shapes in families/dense_reference.py."""
    chosen = parts(constants)
    return dense.run(chosen.state, chosen.readout, wx, W, h0, *([] if q is None else [q]), at=at)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64; tanh bounds the state."""
    return dense.draw(kind, shapes, randn, bounded=True)

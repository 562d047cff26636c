"""E2 in plain PyTorch: h[t] = tanh(wx[t] + W h[t-1]), or decay h[t-1] + wx[t]; y[t] = h[t]. The truth that the kernel is measured against."""

from elmanctl.families import dense_reference as dense
from elmanctl.families import pointwise_reference as pointwise
from elmanctl.families.dense_reference import DRAWS, exact

__all__ = ["DRAWS", "draw", "forward", "readout", "readout_slopes", "state", "state_slope", "weight_gradients"]

state, state_slope = dense.tanh, dense.tanh_slope
readout, readout_slopes = dense.plain, dense.plain_slopes


def forward(wx, W, decay, h0, *, constants, at=exact):
    """Run README.md, equation 2 or 2d; shapes in families/dense_reference.py, decay [D]."""
    if constants["DIAGONAL"]:
        return pointwise.run(lambda h, x: decay * h + x, pointwise.plain, [wx], h0)
    return dense.run(state, readout, wx, W, h0, at=at)


def weight_gradients(t):
    """Return the gradient of W or of decay."""
    return dense.weight_gradients(t) if "W" in t else pointwise.weight_gradients(t)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64; tanh bounds the state, a decay below 1 keeps it from growing without its inputs."""
    if constants["DIAGONAL"]:
        return pointwise.draw(kind, shapes, randn, vectors=("decay",))
    return dense.draw(kind, shapes, randn, bounded=True)

"""E70 in plain PyTorch: S[t] = decay S[t-1] + v k^T. The truth that the kernel is measured against."""

from elmanctl.families import matrix_reference as matrix
from elmanctl.families.matrix_reference import DRAWS, exact

__all__ = ["DRAWS", "draw", "forward", "weight_gradients"]


def forward(projected, decay, s0, *, constants, at=exact):
    """Run README.md, equations 2 to 4; decay [H], other shapes in families/matrix.py."""
    q, k, v = matrix.split(projected, 3, s0)
    decay = decay[:, None, None]
    return matrix.run(lambda s, t: decay * s + matrix.outer(v[:, t], k[:, t]), q, s0, projected.dtype)


def weight_gradients(t):
    """Return the decay's gradient: the kernel sums over time, torch over the batch."""
    return {"d_decay": t["decay_part"].sum(0)}


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64: decays between 0.8 and 1, `extreme` ones at 0 and 0.999."""
    x = matrix.draw(kind, shapes, randn, bounded=False)
    spread = x["decay"].tanh()
    x["decay"] = 0.9 + 0.099 * spread
    if kind == "extreme":
        x["decay"] = (spread > spread.median()).to(spread) * 0.999
    return x

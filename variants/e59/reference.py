"""E59 in plain PyTorch, README.md, equations 2 to 4. The truth that the kernel is measured against."""

import torch
import torch.nn.functional as F

from elmanctl.families.pointwise_reference import DRAWS, exact

__all__ = ["DRAWS", "draw", "forward"]

EPS = 1e-6


def forward(u, h0, *, constants=None, at=exact):
    """Run the recurrence.

    Args:
        u: the steps, of their sizes, [B, T, D].
        h0: state before the first step, [B, D]; the computation runs in its dtype.
    Returns:
        y [B, T, D] in the dtype of u, and the last state.
    """
    h, states = h0, []
    for step in u.to(h0.dtype).unbind(1):
        y = h + step
        h = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + EPS)
        states.append(h)
    h = torch.stack(states, 1)
    return (h * F.silu(h)).to(u.dtype), h[:, -1]


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64. `typical`: steps of a tenth of the state. `saturated`: of eight times it. `extreme`: state and every other step, the
    first among them, of a thousandth, as large as what keeps the norm from zero, the others of twenty times the state."""
    u, h0 = randn(*shapes["u"]), randn(*shapes["h0"])
    if kind != "extreme":
        return {"u": {"typical": 0.1, "saturated": 8.0}[kind] * u, "h0": h0}
    small = (torch.arange(u.shape[1]) % 2 == 0)[:, None]
    return {"u": torch.where(small, 1e-3, 20.0) * u, "h0": 1e-3 * h0}

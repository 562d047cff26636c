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
    """Draw inputs in fp64. `typical`: steps of a tenth of the state; `saturated`: of eight times it; `extreme`: none, or of size 20 and more."""
    u, h0 = randn(*shapes["u"]), randn(*shapes["h0"])
    size = {"typical": 0.1, "saturated": 8.0, "extreme": 20.0}[kind]
    return {"u": torch.where(u.abs() < 0.5, 0, size * u) if kind == "extreme" else size * u, "h0": h0}

"""The dense recurrence in plain PyTorch: a loop over time, in any floating dtype, and the elementwise parts that several variants name.

A variant's reference.py names its parts as `state`, `state_slope`, `readout` and `readout_slopes` (the per-step mode of stepwise.py reads
them there) and calls `run`. Slopes are written out, since an op's own code runs below autograd; verify holds the kernel against autograd
through `run`, so that a wrong slope shows.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

DRAWS = ("typical", "saturated", "extreme")


def exact(name: str, x: Tensor) -> Tensor:
    """Leave x as it is: no rounding at the point `name`."""
    return x


def run(
    state: Callable, readout: Callable, wx: Tensor, W: Tensor, h0: Tensor, *gates: Tensor, at: Callable = exact
) -> tuple[Tensor, Tensor]:
    """Run h[t] = state(wx[t] + W h[t-1]), y[t] = readout(h[t], gates[t]).

    Args:
        state, readout: the elementwise parts, autograd sees through them.
        wx: input part of the pre-activation, bias included, [B, T, D].
        W: recurrent weight, [D, D].
        h0: state before the first step, [B, D]; the computation runs in its dtype.
        gates: further inputs of the readout, [B, T, D] each.
        at: rounding points `h_operand` and `d_pre`, see families/dense.py.
    Returns:
        y [B, T, D] in the dtype of wx, and the last state [B, D].
    """
    h, states, matrix = h0, [], W.to(h0.dtype).mT
    for t in range(wx.shape[1]):
        h = state(at("d_pre", wx[:, t].to(h0.dtype) + at("h_operand", h) @ matrix))
        states.append(h)
    h = torch.stack(states, 1)
    return readout(h, *(gate.to(h0.dtype) for gate in gates)).to(wx.dtype), h[:, -1]


def weight_gradients(t: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return d_W = sum over b, t of d_pre[t] h[t-1]^T as one product over all B T rows.

    Args:
        t: tensors of the call; d_wx is d_pre [B, T, D], former is h[t-1] as operand of the product [B, T, D], both in the compute dtype.
    """
    return {"d_W": t["d_wx"].flatten(0, 1).mT @ t["former"].flatten(0, 1)}


def draw(kind: str, shapes: Mapping[str, tuple], randn: Callable, bounded: bool) -> dict[str, Tensor]:
    """Draw inputs in fp64.

    `typical`: W with a largest singular value near 1. `saturated`: pre-activations and gates of size 8, both signs; an unbounded state too.
    `extreme`: inputs at zero or of size 30, gates of size 20, and a W that nearly forgets (0.02) or keeps (0.98) a channel.

    Args:
        shapes: of every input by name: wx, W, h0, and any number of gates.
        randn: draws a normal tensor of a shape.
        bounded: whether the state lies between -1 and 1.
    """
    D = shapes["W"][0]
    drawn = {name: randn(*shape) for name, shape in shapes.items()}
    drawn["W"] = drawn["W"] * (0.5 / D**0.5)
    if bounded:
        drawn["h0"] = torch.tanh(drawn["h0"])
    wide = [name for name in drawn if name != "W" and not (bounded and name == "h0")]
    if kind == "saturated":
        drawn |= {name: 8 * drawn[name] for name in wide}
    if kind == "extreme":
        wx = drawn["wx"]
        drawn["wx"] = torch.where(wx.abs() < 0.5, 0, torch.where(wx > 1.5, 30.0, wx))
        drawn |= {n: torch.where(drawn[n] > 0, 20 + drawn[n], drawn[n] - 20) for n in wide if n not in ("wx", "h0")}
        drawn["W"] = 0.02 * drawn["W"] + torch.diag((torch.arange(D) % 2).to(wx)) * 0.98
    return drawn


# States: h from its pre-activation, and d h / d pre from h.


def tanh(pre: Tensor) -> Tensor:
    """Return tanh(pre)."""
    return torch.tanh(pre)


def tanh_slope(h: Tensor) -> Tensor:
    """Return 1 - h^2, written so that nothing cancels near |h| = 1."""
    return (1 - h) * (1 + h)


def linear(pre: Tensor) -> Tensor:
    """Return pre: the recurrence is linear."""
    return pre


def linear_slope(h: Tensor) -> Tensor:
    """Return 1."""
    return torch.ones_like(h)


# Readouts: y from h and gates, and the slopes of y by h and by each gate.


def silu_slope(x: Tensor) -> Tensor:
    """Return silu'(x) = sigmoid(x) (1 + x sigmoid(-x))."""
    return torch.sigmoid(x) * (1 + x * torch.sigmoid(-x))


def self_gate(h: Tensor) -> Tensor:
    """Return h silu(h)."""
    return h * F.silu(h)


def self_gate_slopes(h: Tensor) -> tuple[Tensor]:
    """Return (silu(h) + h silu'(h),)."""
    return (F.silu(h) + h * silu_slope(h),)


def gated(h: Tensor, gate: Tensor) -> Tensor:
    """Return h silu(gate)."""
    return h * F.silu(gate)


def gated_slopes(h: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """Return (silu(gate), h silu'(gate))."""
    return F.silu(gate), h * silu_slope(gate)

"""Recurrences of gated cells in plain PyTorch: a loop over time, in any floating dtype; cells, products and draws.

A variant's reference.py names a `Cell` and a product, and calls `run`. Slopes are written out for the per-step mode (gated_stepwise.py), whose
code runs below autograd; verify holds both modes against autograd through `run`, so that a wrong slope shows.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from elmanctl.families.dense_reference import exact

DRAWS = ("typical", "saturated", "extreme")
Parts = Sequence[Tensor]


class Cell:
    """The elementwise part of a step, for [B, D] or [B, T, D] at once. All of it as in the C++ Cell, by the same names.

    `inputs` pre-activations of a channel, of which the first `sums` get a row of the product; `local` where the state is not h.
    """

    inputs: int
    sums: int = 1
    local = False

    def step(self, pre: Parts, state: Tensor) -> tuple[Tensor, Tensor, Parts]:
        """Return h, the new state, and what the backward pass needs of them, the state first."""
        raise NotImplementedError

    def output(self, kept: Parts) -> Tensor:
        """Return h from what was kept."""
        return kept[0]

    def slopes(self, wx: Parts, kept: Parts, former: Tensor) -> Parts:
        """Return what `back` needs, from the inputs without their sums, what was kept and the state before."""
        raise NotImplementedError

    def back(self, slopes: Parts, d_h: Tensor, carry: Tensor) -> tuple[Parts, Tensor]:
        """Return the gradient of every pre-activation, and that of the former state past the product.

        By default for a state that is h: slopes of the pre-activations, then of the former state.
        """
        d = d_h + carry
        return [s * d for s in slopes[:-1]], slopes[-1] * d


class Blend(Cell):
    """h = alpha h' + (1 - alpha) u with u = tanh(pre[0]) and alpha = sigmoid(pre[1])."""

    inputs = 2

    def step(self, pre: Parts, state: Tensor) -> tuple[Tensor, Tensor, Parts]:
        u = torch.tanh(pre[0])
        h = torch.sigmoid(pre[1]) * state + torch.sigmoid(-pre[1]) * u
        return h, h, [h, u]

    def slopes(self, wx: Parts, kept: Parts, former: Tensor) -> Parts:
        u, alpha, rest = kept[1], torch.sigmoid(wx[1]), torch.sigmoid(-wx[1])
        return [rest * (1 - u) * (1 + u), (former - u) * alpha * rest, alpha]


def split(x: Tensor, count: int) -> Parts:
    """Return the `count` values of a channel in [..., count D]."""
    return x.chunk(count, -1)


def square(W: Tensor) -> Callable:
    """Return h -> W h, for `run`."""
    return lambda h, at: at("h_operand", h) @ W.to(h.dtype).mT


def low_rank(U: Tensor, V: Tensor) -> Callable:
    """Return h -> U (V h), for `run`; V h is rounded as the operand that it is, and so is its gradient."""
    return lambda h, at: at("m_operand", at("h_operand", h) @ V.to(h.dtype).mT) @ U.to(h.dtype).mT


def run(
    cell: Cell,
    readout: Callable,
    product: Callable,
    wx: Tensor,
    h0: Tensor,
    *gates: Tensor,
    s0: Tensor | None = None,
    at: Callable = exact,
) -> tuple[Tensor, ...]:
    """Run a cell over time.

    Args:
        cell: the elementwise part; autograd sees through its `step`.
        readout: y from h and gates.
        product: `square(W)` or `low_rank(U, V)`.
        wx: input part of the pre-activations, biases included, [B, T, inputs D].
        h0, s0: h, and the state of a local cell, before the first step, [B, D]; the computation runs in their dtype.
        gates: further inputs of the readout, [B, T, D] each.
        at: rounding points, see families/gated.py.
    Returns:
        y [B, T, D] in the dtype of wx, the last h [B, D], and the last state of a local cell.
    """
    h, state, states = h0, s0 if cell.local else h0, []
    for t in range(wx.shape[1]):
        pre = list(split(wx[:, t].to(h.dtype), cell.inputs))
        for i, total in enumerate(split(product(h, at), cell.sums)):
            pre[i] = at("d_pre", pre[i] + total)
        h, state, _ = cell.step(pre, state)
        states.append(h)
    y = readout(torch.stack(states, 1), *(gate.to(h.dtype) for gate in gates)).to(wx.dtype)
    return (y, h, state) if cell.local else (y, h)


def weight_gradients(t: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradients of W, or of U and V, as products over all B T rows.

    Args:
        t: tensors of the call; the first rows of d_wx are the sums' d_pre, `former` is h[t-1] as operand; with low rank m = V h[t-1] as
            operand and d_m, its gradient. All in the compute dtype.
    """
    former = t["former"].flatten(0, 1)
    if "W" in t:
        return {"d_W": t["d_wx"][..., : t["W"].shape[0]].flatten(0, 1).mT @ former}
    d_pre = t["d_wx"][..., : t["U"].shape[0]].flatten(0, 1)
    return {"d_U": d_pre.mT @ t["m"].flatten(0, 1), "d_V": t["d_m"].flatten(0, 1).mT @ former}


def draw(kind: str, shapes: Mapping[str, tuple], randn: Callable) -> dict[str, Tensor]:
    """Draw inputs in fp64.

    `typical`: W of largest singular value near 1; U and V whose product has a spectral radius near 1: with the 0.25 of factors drawn like
    W, the last chunk has forgotten the first state, and nothing there tells whether it was read. `saturated`: pre-activations and gates of
    size 8, both signs. `extreme`: pre-activations at zero or of size 30, so that gates are 0, a half or 1; a matrix W that nearly forgets
    (0.02) or keeps (0.98) a channel.

    Args:
        shapes: of every input by name: wx, W or U and V, h0 and s0, and any number of gates.
        randn: draws a normal tensor of a shape.
    """
    drawn = {name: randn(*shape) for name, shape in shapes.items()}
    for name in {"W", "U", "V"} & set(drawn):
        drawn[name] = drawn[name] * ((0.5 if name == "W" else 1) / drawn[name].shape[1] ** 0.5)
    drawn["h0"] = torch.tanh(drawn["h0"])
    wide = [name for name in drawn if name not in ("W", "U", "V", "h0", "s0")]
    if kind == "saturated":
        drawn |= {name: 8 * drawn[name] for name in wide}
    if kind == "extreme":
        for name in wide:
            x = drawn[name]
            drawn[name] = torch.where(x.abs() < 0.5, 0, torch.where(x > 0, 20 + x, x - 20) if name != "wx" else 12 * x)
        if "W" in drawn:
            D = drawn["W"].shape[1]
            keep = torch.diag((torch.arange(D) % 2).to(drawn["W"])) * 0.98
            drawn["W"] = 0.02 * drawn["W"] + keep.repeat(drawn["W"].shape[0] // D, 1)
    return drawn

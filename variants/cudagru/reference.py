"""cudagru in plain PyTorch, README.md, equations 1 to 4. The truth that the kernel is measured against, and the per-step mode."""

import torch

from elmanctl.families import gated_reference as gated
from elmanctl.families.dense_reference import exact
from elmanctl.families.gated_reference import DRAWS
from elmanctl.stepwise import product

__all__ = ["DRAWS", "draw", "forward", "stepwise", "weight_gradients"]


def forward(wx, W, N, h0, *, constants=None, at=exact):
    """Run the recurrence.

    Args:
        wx: input part of z, r and n, biases included, [B, T, 3 D].
        W, N: [2 D, D] of z and r, and [D, D] of n.
        h0: state before the first step, [B, D]; the computation runs in its dtype.
    Returns:
        y [B, T, D] in the dtype of wx, and the last state.
    """
    h, states = h0, []
    gates, candidate = W.to(h.dtype).mT, N.to(h.dtype).mT
    for t in range(wx.shape[1]):
        x = wx[:, t].to(h.dtype)
        D = h.shape[1]
        z, r = torch.sigmoid(at("d_pre", x[:, : 2 * D] + at("h_operand", h) @ gates)).chunk(2, -1)
        n = torch.tanh(at("d_pre", x[:, 2 * D :] + at("h_operand", r * h) @ candidate))
        h = (1 - z) * h + z * n
        states.append(h)
    return torch.stack(states, 1).to(wx.dtype), h


class Stepwise:
    """Both passes with library products in each step; results, saved tensors and rounding points are those of the kernel."""

    def forward(self, inputs):
        """Return outputs and saved tensors, as launch.run_forward does."""
        wx, h, D = inputs["wx"], inputs["h0"], inputs["h0"].shape[1]
        states, kept, reset = [], [], []
        for t in range(wx.shape[1]):
            x = wx[:, t].to(h.dtype)
            z, r = torch.sigmoid(x[:, : 2 * D] + product(h.to(wx.dtype), inputs["W"].mT)).chunk(2, -1)
            reset.append((r * h).to(wx.dtype))
            n = torch.tanh(x[:, 2 * D :] + product(reset[-1], inputs["N"].mT))
            h = (1 - z) * h + z * n
            states.append(h)
            kept.append(torch.cat([h, z, r, n], -1))
        y = torch.stack(states, 1).to(wx.dtype)
        return {"y": y, "h_last": h.clone(), "kept": torch.stack(kept, 1), "reset": torch.stack(reset, 1)}

    def backward(self, tensors, upstream):
        """Return the tensors that the kernel's backward pass writes."""
        W, N, h0 = tensors["W"], tensors["N"], tensors["h0"]
        h, z, r, n = tensors["kept"].chunk(4, -1)
        former = torch.cat([h0[:, None], h[:, :-1]], 1)
        d_n, d_z, d_r = z * (1 - n) * (1 + n), (n - former) * z * (1 - z), former * r * (1 - r)
        d_wx, carry, D = torch.empty_like(tensors["wx"]), upstream["d_h_last"], h0.shape[1]
        for t in reversed(range(h.shape[1])):
            d = upstream["d_y"][:, t].to(h.dtype) + carry
            d_wx[:, t, 2 * D :] = d * d_n[:, t]
            m = product(d_wx[:, t, 2 * D :], N)
            d_wx[:, t, : 2 * D] = torch.cat([d * d_z[:, t], m * d_r[:, t]], -1)
            carry = d * (1 - z[:, t]) + m * r[:, t] + product(d_wx[:, t, : 2 * D], W)
        return {"d_wx": d_wx, "d_h0": carry, "former": former.to(W.dtype)}


def stepwise(constants):
    """Return the per-step mode."""
    return Stepwise()


def weight_gradients(t):
    """Return the gradients of W and N as products over all B T rows of d_wx, of `former` (h[t-1]) and of `reset` (r h[t-1]), the operands."""
    d_wx, rows = t["d_wx"].flatten(0, 1), t["W"].shape[0]
    return {
        "d_W": d_wx[:, :rows].mT @ t["former"].flatten(0, 1),
        "d_N": d_wx[:, rows:].mT @ t["reset"].flatten(0, 1),
    }


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64."""
    drawn = gated.draw(kind, {name: shape for name, shape in shapes.items() if name != "N"}, randn)
    return drawn | {"N": randn(*shapes["N"]) * (0.5 / shapes["N"][1] ** 0.5)}

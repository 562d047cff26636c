"""E1 in plain PyTorch: a loop over time, any floating dtype. The truth that the kernel is measured against."""

import torch
import torch.nn.functional as F

DRAWS = ("typical", "saturated", "extreme")


def exact(name, x):
    """Leave x as it is: no rounding at the point `name`."""
    return x


def state(pre):
    """Return h from its pre-activation."""
    return torch.tanh(pre)


def state_slope(h):
    """Return d h / d pre from h, written so that nothing cancels near |h| = 1."""
    return (1 - h) * (1 + h)


def readout(h, z):
    """Return y = h silu(z)."""
    return h * F.silu(z)


def readout_slopes(h, z):
    """Return (dy / dh, dy / dz): silu(z) and h silu'(z), with silu'(z) = sigmoid(z) (1 + z sigmoid(-z))."""
    return F.silu(z), h * torch.sigmoid(z) * (1 + z * torch.sigmoid(-z))


def forward(wx, z, W, h0, *, constants=None, at=exact):
    """Run the tanh recurrence and its gated readout.

    h[t] = tanh(wx[t] + W h[t-1]),   y[t] = h[t] silu(z[t])

    Args:
        wx: input part of the pre-activation, bias included, [B, T, D].
        z: gate before its silu, [B, T, D].
        W: recurrent weight, [D, D].
        h0: state before the first step, [B, D]; the computation runs in its dtype.
        constants: without effect; CUBLAS is another way to compute the same.
        at: rounding points `h_operand` and `d_pre`, see binding.py.
    Returns:
        y [B, T, D] in the dtype of wx, and the last state [B, D].
    Source: README.md, equations 2 and 3.
    """
    h, states, matrix = h0, [], W.to(h0.dtype).mT
    for t in range(wx.shape[1]):
        h = state(at("d_pre", wx[:, t].to(h0.dtype) + at("h_operand", h) @ matrix))
        states.append(h)
    h = torch.stack(states, 1)
    return readout(h, z.to(h0.dtype)).to(wx.dtype), h[:, -1]


def weight_gradients(t):
    """Return d_W = sum over b, t of d_pre[t] h[t-1]^T as one product over all B T rows.

    Args:
        t: tensors of the call; d_wx is d_pre [B, T, D], former is h[t-1] as operand of the product [B, T, D], both in the compute dtype.
    """
    return {"d_W": t["d_wx"].flatten(0, 1).mT @ t["former"].flatten(0, 1)}


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64.

    `typical`: W with a largest singular value near 1. `saturated`: pre-activations and gates of size 8, both signs.
    `extreme`: inputs at zero or of size 30, gates of size 20, and a W that nearly forgets (0.02) or keeps (0.98) a channel.
    """
    D = shapes["W"][0]
    wx, z, W, h0 = (randn(*shapes[name]) for name in ("wx", "z", "W", "h0"))
    W, h0 = W * (0.5 / D**0.5), torch.tanh(h0)
    if kind == "saturated":
        wx, z = 8 * wx, 8 * z
    if kind == "extreme":
        wx = torch.where(wx.abs() < 0.5, 0, torch.where(wx > 1.5, 30.0, wx))
        z = torch.where(z > 0, 20 + z, z - 20)
        W = 0.02 * W + torch.diag((torch.arange(D) % 2).to(W)) * 0.98
    return {"wx": wx, "z": z, "W": W, "h0": h0}

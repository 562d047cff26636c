"""Blank in plain PyTorch: a loop over time, any floating dtype. The truth that the kernel is measured against."""

import torch

DRAWS = ("typical", "saturated", "extreme")


def exact(name, x):
    """Leave x as it is: no rounding at the point `name`."""
    return x


def forward(x, a, h0, *, constants, at=exact):
    """Run the recurrence h[t] = phi(x[t] + a * h[t-1]), y[t] = h[t].

    Args:
        x: inputs, [B, T, D].
        a: recurrent weight of each channel, [D].
        h0: state before the first step, [B, D]; the computation runs in its dtype.
        constants: LINEAR, see binding.py.
        at: rounding points; this kernel has none besides loads and stores.
    Returns:
        y [B, T, D] in the dtype of x, and the last state [B, D].
    Source: README.md, equation 1.
    """
    h, ys = h0, []
    for t in range(x.shape[1]):
        h = x[:, t].to(h0.dtype) + a * h
        if not constants["LINEAR"]:
            h = torch.tanh(h)
        ys.append(h)
    return torch.stack(ys, 1).to(x.dtype), h


def weight_gradients(t):
    """Add up over the batch what the kernel summed over time. Takes all tensors by name, returns `d_<input>`."""
    return {"d_a": t["a_part"].sum(0)}


def draw(kind, shapes, constants, randn):
    """Draw inputs for verify, in fp64: `typical`, `saturated` (tanh near its limits) or `extreme` (a at 0 and near 1, zero inputs)."""
    x = {name: randn(*shape) for name, shape in shapes.items()}
    x["a"] = torch.tanh(x["a"])
    if kind == "saturated":
        x["x"] = 6.0 * x["x"]
    if kind == "extreme":
        x["a"] = torch.where(x["a"] > 0, 1.0 - 1e-3 * x["a"], 0.0 * x["a"])
        x["x"][:, ::3] = 0.0
    return x

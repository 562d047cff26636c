"""The leaky integrator in plain PyTorch."""

import torch

DRAWS = ("typical",)


def forward(x, a, h0, gain, *, constants, at=lambda name, value: value):
    """x [B, T, D], a [D], h0 [B, D], gain [D] or None -> y [B, T, D], h_last [B, D]."""
    h, ys = h0, []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h if gain is None else gain * h)
    return torch.stack(ys, 1).to(x.dtype), h


def sum_parts(t):
    """Sum the per-row gradients of the two vectors."""
    parts = {"d_a": t["a_part"].sum(0)}
    return parts | ({"d_gain": t["gain_part"].sum(0)} if "gain_part" in t else {})

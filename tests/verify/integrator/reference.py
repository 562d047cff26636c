"""The integrator in plain PyTorch: h[t] = phi(a h[t-1] + x[t]), y = h^2."""

import torch

DRAWS = ("typical", "saturated", "extreme")


def forward(x, a, h0, *, constants, at=None):
    """x [B, T, D], a [D], h0 [B, D] -> y [B, T, D], h_last [B, D]."""
    h, ys = h0, []
    for t in range(x.shape[1]):
        h = a * h + x[:, t].to(h0.dtype)
        h = torch.tanh(h) if constants["BOUNDED"] else h
        ys.append(h * h)
    return torch.stack(ys, 1).to(x.dtype), h


def sum_parts(t):
    """Sum the per-row gradients of a."""
    return {"d_a": t["a_part"].sum(0)}


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64."""
    scale = {"typical": 1.0, "saturated": 8.0, "extreme": 1.0}[kind]
    a = torch.sigmoid(randn(*shapes["a"]) * (8 if kind == "extreme" else 1))
    return {"x": scale * randn(*shapes["x"]), "a": a, "h0": randn(*shapes["h0"])}

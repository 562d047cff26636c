"""The cell in plain PyTorch: s[t] = tanh(decay[t] s[t-1] + W s[t-1] + x[t]), y[t] = s[t] silu(gate[t])."""

import torch
import torch.nn.functional as F

DRAWS = ("typical", "saturated", "extreme")


def forward(x, decay, gate, W, s0, *, constants, at=None):
    """x, gate [B, T, H, N], decay [B, T, H], W [H, N, N], s0 [B, H, N] -> y [B, T, H, N], s_last [B, H, N]."""
    s, ys = s0, []
    for t in range(x.shape[1]):
        pre = decay[:, t, :, None] * s + torch.einsum("hij,bhj->bhi", W, s) + x[:, t].to(s0.dtype)
        s = torch.tanh(pre)
        ys.append(s * F.silu(gate[:, t].to(s0.dtype)))
    return torch.stack(ys, 1).to(x.dtype), s


def sum_parts(t):
    """Sum the gradient of W over rows."""
    return {"d_W": t["W_part"].sum(0)}


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64."""
    t = {name: randn(*shape) for name, shape in shapes.items()}
    scale = {"typical": 1.0, "saturated": 6.0, "extreme": 12.0}[kind]
    t["decay"] = torch.sigmoid(scale * t["decay"])
    return t | {"gate": scale * t["gate"], "x": min(scale, 6.0) * t["x"], "W": 0.4 * t["W"]}

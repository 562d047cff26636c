"""E79 in plain PyTorch: two states that gate each other. The truth that the kernel is measured against."""

import torch

from elmanctl.families import matrix_reference as matrix
from elmanctl.families.matrix_reference import DRAWS, exact

from .binding import PARAMETERS

__all__ = ["DRAWS", "draw", "forward", "weight_gradients"]


def forward(projected, s_bias, m_bias, s0, m0, *, constants, at=exact):
    """Run README.md, equations 2 to 6.

    Args:
        projected: raw vectors, [B, T, 4 H N] or, with projected biases, [B, T, 6 H N]: q, k, v, m of all heads, then the biases.
        s_bias, m_bias: learned biases of the gates of S and M, [H, N], or None.
        s0, m0: states before the first step, [B, H, N, N], value rows and key columns; the computation runs in their dtype.
        constants: see binding.py.
        at: rounding points; there are none besides loads and stores.
    Returns:
        y [B, T, H N] in the dtype of `projected`, and the last states.
    """
    q, k, v, m, *biases = matrix.split(projected, constants["VECTORS"], s0)
    k, m = matrix.unit(k), matrix.unit(m)
    s, memory, readouts = s0, m0, []
    for t in range(projected.shape[1]):
        of_s, of_m = [b[:, t] for b in biases] or (0 if s_bias is None else s_bias, 0 if m_bias is None else m_bias)
        write = v[:, t] - matrix.read(s, k[:, t])
        s = forget(s, memory, k[:, t], of_s) + matrix.outer(write, k[:, t])
        write = write - matrix.read(memory, m[:, t])
        memory = forget(memory, s, m[:, t], of_m) + matrix.outer(write, m[:, t])
        readouts.append(matrix.read(s, q[:, t]))
    r = torch.stack(readouts, 1).flatten(2)
    return (r.square() * torch.sigmoid(r)).to(projected.dtype), s, memory


def forget(state, other, key, bias):
    """Return diag(a) state diag(a'), a = sigmoid(other key + bias), a' = sigmoid(other^T key + bias)."""
    rows = torch.sigmoid(matrix.read(other, key) + bias)
    columns = torch.sigmoid(matrix.read(other.transpose(-1, -2), key) + bias)
    return rows[..., None] * state * columns[:, :, None, :]


def weight_gradients(t):
    """Return the gradients of the learned biases; of none where there are none."""
    return matrix.sums(t, *PARAMETERS) if "parameter_parts" in t else {}


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64; `extreme`: zero and tiny keys of either state, gates at 0 and 1."""
    x = matrix.draw(kind, shapes, randn, bounded=False)
    _, _, _, m, *biases = matrix.vectors(x["projected"], x["s0"])
    x["m0"] = 0.5 * x["m0"]
    for name, first in zip(PARAMETERS, (2.0, 2.5), strict=True):
        if name in x:
            x[name] = first + (8.0 if kind == "extreme" else 0.5) * x[name]
    if kind == "extreme":
        m[:, ::4] = 0.0
        m[:, 1::3] *= 1e-5
        for bias in biases:
            bias *= 8.0
    return x

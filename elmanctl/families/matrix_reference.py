"""Matrix states with self-gated readout in plain PyTorch: a loop over time, in any floating dtype. Shapes and tensors: matrix.py.

A variant's reference.py defines one step on [B, H, N, N] and calls `run`.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

DRAWS = ("typical", "saturated", "extreme")
KEY = (
    0.3  # size of raw keys in draws: about a unit vector at small states, and stable where the step is not of unit norm
)


def exact(name: str, x: Tensor) -> Tensor:
    """Leave x as it is: no rounding at the point `name`."""
    return x


def split(projected: Tensor, vectors: int, s0: Tensor) -> list[Tensor]:
    """Return the raw vectors of `projected`, each [B, T, H, N] in the dtype of the state."""
    B, T, _ = projected.shape
    H, N = s0.shape[1:3]
    return list(projected.to(s0.dtype).view(B, T, vectors, H, N).unbind(2))


def run(step: Callable[[Tensor, int], Tensor], q: Tensor, s0: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Run S[t] = step(S[t-1], t), r[t] = S[t] q[t], y[t] = r[t]^2 sigmoid(r[t]).

    Args:
        step: autograd sees through it.
        q: queries, [B, T, H, N].
        s0: state before the first step, [B, H, N, N], value rows and key columns.
        dtype: of y.
    Returns:
        y [B, T, H N], and the last state.
    """
    s, readouts = s0, []
    for t in range(q.shape[1]):
        s = step(s, t)
        readouts.append(read(s, q[:, t]))
    r = torch.stack(readouts, 1).flatten(2)
    return (r.square() * torch.sigmoid(r)).to(dtype), s


def read(s: Tensor, key: Tensor) -> Tensor:
    """Return S k, [B, H, N]."""
    return (s * key[:, :, None, :]).sum(-1)


def outer(u: Tensor, key: Tensor) -> Tensor:
    """Return u k^T, [B, H, N, N]."""
    return u[..., None] * key[:, :, None, :]


def unit(x: Tensor) -> Tensor:
    """Scale the last axis to unit length: x (|x|^2 + 1e-12)^(-1/2), smooth at zero."""
    return x * (x.square().sum(-1, keepdim=True) + 1e-12).rsqrt()


def sums(t: Mapping[str, Tensor], *parameters: str) -> dict[str, Tensor]:
    """Return gradients of parameters [H, N] from what the kernel summed over time: the sum over the batch."""
    parts = t["parameter_parts"].sum(0).unbind(1)
    return {f"d_{name}": part.clone() for name, part in zip(parameters, parts, strict=True)}


def draw(kind: str, shapes: Mapping[str, tuple], randn: Callable, bounded: bool) -> dict[str, Tensor]:
    """Draw inputs in fp64: normal ones, keys of size KEY.

    `saturated`: vectors three times as large, a state near its limits. `extreme`: zero and tiny keys, values of very different size.

    Args:
        shapes: of every input by name.
        randn: draws a normal tensor of a shape.
        bounded: whether the state lies between -1 and 1.
    """
    x = {name: randn(*shape) for name, shape in shapes.items()}
    _, k, v, *_ = vectors(x["projected"], x["s0"])
    k *= KEY
    if kind == "saturated":
        x["projected"] *= 3.0
    if kind == "extreme":
        k[:, ::3] = 0.0
        k[:, 1::5] *= 1e-5
        v *= torch.where(randn(*v.shape[:2], 1, 1) > 0, 3.0, 0.3)
    x["s0"] = torch.tanh(2.0 * x["s0"]) if bounded and kind != "typical" else 0.5 * x["s0"]
    return x


def vectors(projected: Tensor, s0: Tensor) -> tuple[Tensor, ...]:
    """Return views of the raw vectors of a drawn `projected`, each [B, T, H, N], to be changed in place."""
    B, T, width = projected.shape
    H, N = s0.shape[1:3]
    return projected.view(B, T, width // (H * N), H, N).unbind(2)

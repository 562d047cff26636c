"""Residual add and RMSNorm in one step: the same arithmetic by two routes, and the record says which one ran.

* `triton`: the kernels of norm_kernels.py, on CUDA;
* `torch`: `add_norm` below, as written, on a CPU, where Triton cannot be imported, in fp64, and for rows too wide for a kernel.
"""

import importlib.util
import math
from functools import cache

import torch
from torch import nn

EPS = 1e-5  # always passed on: stock RMSNorm would take the input dtype's epsilon, 7.8e-3 in bf16
ELEMENTS_A_THREAD = 16  # about; of a row, in registers
WIDEST = 65535  # elements of a row; a wider one does not fit into shared memory where its layout changes
WARPS = 16  # of a multiprocessor in a backward pass: 128 registers a thread


def add_norm(x, residual, weight, out_dtype):
    """Add to the residual stream and normalise it.

    r' = r + x,   u = weight * r' / sqrt(mean(r'^2) + 1e-5)

    Args:
        x: what the previous layer made, [..., D]; residual: the stream so far, [..., D] in fp32, or None at the first layer.
        weight: [D] in fp32; out_dtype: dtype of u.
    Returns:
        u, [..., D], and r', [..., D] in fp32 (fp64 where x is).
    """
    stream = x.to(torch.promote_types(x.dtype, torch.float32))
    if residual is not None:
        stream = residual + stream
    scale = torch.rsqrt(stream.square().mean(-1, keepdim=True) + EPS)
    return (stream * scale * weight).to(out_dtype), stream


def division(D: int) -> dict[str, int]:
    """Return how a kernel holds a row of D elements: two parts, each a power of two (the second 0 where one is enough), and its warps."""
    first = max(16, 1 << (D.bit_length() - 1))
    second = max(16, 1 << (D - first - 1).bit_length()) if first < D else 0
    warps = round(math.log2(max(1.0, (first + second) / (32 * ELEMENTS_A_THREAD))))
    return {"FIRST": first, "SECOND": second, "num_warps": min(WARPS, 1 << warps)}


def programs_of(D: int, rows: int, multiprocessors: int) -> int:
    """Return how many programs share the rows of a backward pass: as many as run at once, since each leaves a partial sum."""
    return min(rows, multiprocessors * (WARPS // division(D)["num_warps"]))


@cache
def fused() -> bool:
    """Return whether the kernels can be imported."""
    return importlib.util.find_spec("triton") is not None


def implementation(device: str | torch.device) -> str:
    """Return which route runs on a device, as it is recorded."""
    return "triton" if torch.device(device).type == "cuda" and fused() else "torch"


def working_dtype(x: torch.Tensor) -> torch.dtype:
    """Return the dtype that layers compute in: autocast's where it is on, else that of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class AddNorm(nn.Module):
    """The norm before one sub-layer, with the residual add before it. Scale starts at 1, no bias."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x, residual=None):
        """Take x [B, T, dim] and the stream (None at first); return the normalised input and the new stream, fp32."""
        dtype = working_dtype(x)
        if implementation(x.device) == "triton" and x.dtype != torch.float64 and x.shape[-1] <= WIDEST:
            from elmanctl.norm_kernels import AddNormFunction

            return AddNormFunction.apply(x, residual, self.weight, EPS, dtype)
        return add_norm(x, residual, self.weight, dtype)

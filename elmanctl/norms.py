"""Residual add and RMSNorm in one step: the same arithmetic by two routes, and the record says which one ran.

* `triton`: the kernels of norm_kernels.py, on CUDA;
* `torch`: `add_norm` below, as written, on a CPU, where Triton cannot be imported, in fp64, and for rows too wide for a kernel.
"""

import importlib.util
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-5  # always passed on: stock RMSNorm would take the input dtype's epsilon, 7.8e-3 in bf16
NEIGHBOURS = 4  # elements of one load or store, 16 bytes in fp32 and 8 in bf16: both dtypes lie in the same threads
MOST = 12  # elements of a row in a thread, unless 16 warps have more: what a backward pass can hold of two rows and not spill
AHEAD = True  # a backward pass reads the next row before it is done with one
WARPS, REGISTERS = 16, 65536  # of a multiprocessor in a backward pass; on it
WIDEST = 65535  # elements of a row: half of the registers of a forward pass
BYTES = 256  # rows of a table that `Rows` are taken from


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
    """Return how a kernel holds a row of D elements: in chunks, in each of which a thread has NEIGHBOURS, and its warps."""
    warps = next((w for w in (1, 2, 4, 8) if 32 * w * MOST >= D), 16)
    width = 32 * warps * NEIGHBOURS
    return {"CHUNKS": -(-D // width), "WIDTH": width, "num_warps": warps}


def backward_division(D: int) -> dict[str, int]:
    """Return the same for a backward pass, whether it reads ahead, and the registers of a thread, so that WARPS always run at once."""
    held = division(D)
    ahead = AHEAD and held["CHUNKS"] * NEIGHBOURS <= MOST
    return {**held, "AHEAD": ahead, "maxnreg": REGISTERS // (32 * WARPS)}


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


class Rows(NamedTuple):
    """F.embedding(index, table) that is not made yet: x of the first norm, and then the stream.

    A kernel takes the rows from the table, a megabyte or two that stay in the L2 cache, where the made tensor is written and read twice.
    `gradient` stands for the stream in autograd: it has its shape and gradient, and no values.
    """

    table: Tensor
    index: Tensor
    gradient: Tensor | None = None

    def made(self) -> Tensor:
        return F.embedding(self.index.long(), self.table)


class AddNorm(nn.Module):
    """The norm before one sub-layer, with the residual add before it. Scale starts at 1, no bias."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor | Rows, residual: Tensor | Rows | None = None, keep: bool = True):
        """Take x [B, T, dim] and the stream (None at first); return the normalised input and the new stream, fp32.

        Only a first x can be Rows, and only a stream that this made of it; a stream that is not to be kept may be None.
        """
        like = x.table if isinstance(x, Rows) else x
        dtype = working_dtype(like)
        if implementation(like.device) == "torch" or like.dtype == torch.float64 or like.shape[-1] > WIDEST:
            return add_norm(x.made() if isinstance(x, Rows) else x, residual, self.weight, dtype)
        if isinstance(x, Rows):
            if x.index.dtype == torch.uint8 and len(x.table) == BYTES:  # no index can then be outside
                from elmanctl.embedding_kernels import EmbeddingNormFunction

                index = x.index.contiguous()
                u, gradient = EmbeddingNormFunction.apply(index, x.table, self.weight, EPS, dtype)
                return u, Rows(x.table, index, gradient)
            x = x.made()
        from elmanctl.norm_kernels import AddNormFunction

        if isinstance(residual, Rows):
            given = residual.gradient, self.weight, EPS, dtype, keep, residual.table.detach(), residual.index
            return AddNormFunction.apply(x, *given)
        return AddNormFunction.apply(x, residual, self.weight, EPS, dtype, keep)

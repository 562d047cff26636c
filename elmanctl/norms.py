"""Residual add and RMSNorm in one step: the same arithmetic by three routes, and the record says which one ran.

* `mamba_ssm`: the Triton kernel of mamba_ssm.ops.triton.layer_norm, on CUDA where that package imports;
* `torch.compile`: `add_norm` below, fused by torch's compiler, on CUDA otherwise;
* `torch`: `add_norm` as written, on a CPU.
"""

from functools import cache

import torch
from torch import nn

EPS = 1e-5  # always passed on: stock RMSNorm would take the input dtype's epsilon, 7.8e-3 in bf16


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


@cache
def fused():
    """Return mamba_ssm's function and an empty text, or None and why it cannot be imported."""
    try:
        from mamba_ssm.ops.triton.layer_norm import rms_norm_fn
    except (
        Exception
    ) as error:  # a broken installation fails in its own ways, and is no reason not to train another model
        return None, f"{type(error).__name__}: {error}"
    return rms_norm_fn, ""


@cache
def compiled():
    """Return `add_norm` fused by torch's compiler; `fullgraph` makes what it cannot compile an error, never a slow path."""
    return torch.compile(add_norm, dynamic=False, fullgraph=True)


def implementation(device: str | torch.device) -> str:
    """Return which route runs on a device, as it is recorded."""
    if torch.device(device).type != "cuda":
        return "torch"
    return "mamba_ssm" if fused()[0] else "torch.compile"


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
        route, dtype = implementation(x.device), working_dtype(x)
        if route == "mamba_ssm":
            u, stream = fused()[0](
                x, self.weight, None, residual=residual, eps=EPS, prenorm=True, residual_in_fp32=True
            )
            return u.to(dtype), stream
        return (compiled() if route == "torch.compile" else add_norm)(x, residual, self.weight, dtype)

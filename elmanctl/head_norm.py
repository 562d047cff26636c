"""RMSNorm of each head's readout, and its gate: the same arithmetic by two routes, those of norms.py.

* `triton`: the kernels of head_norm_kernels.py, on CUDA, for bf16 and fp32;
* `torch`: `normed` below, as written, on a CPU, where Triton cannot be imported, in any other dtype, for heads too wide for a kernel, and where
  torch's compiler looks, which fuses it by itself.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from elmanctl.norms import EPS, implementation

ACTIVATIONS = {"silu": F.silu, "sigmoid": torch.sigmoid}
TAKEN = (torch.bfloat16, torch.float32)
WIDEST = 1024


def normed(y: Tensor, weight: Tensor, gate: Tensor | None, activation: str, dtype: torch.dtype) -> Tensor:
    """Compute `head_norm` as it is defined."""
    wide = y.to(torch.promote_types(y.dtype, torch.float32))
    out = wide * (wide.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight
    if gate is not None:
        out = out * ACTIVATIONS[activation](gate.to(wide.dtype))
    return out.to(dtype)


def head_norm(y: Tensor, weight: Tensor, gate: Tensor | None, activation: str, dtype: torch.dtype) -> Tensor:
    """Normalise each head, scale and gate it.

    o = y (mean y^2 + 1e-5)^(-1/2) ⊙ weight ⊙ act(gate), in fp32, rounded once

    Args:
        y: readouts, [..., M]; gate: as many elements as y, or None.
        weight: [M], as it is stored, for all heads.
        activation: of the gate, `silu` or `sigmoid`.
        dtype: of the result.
    Returns:
        o, in the shape of y.
    """
    gate = None if gate is None else gate.view(y.shape)
    given = [t.dtype for t in (y, weight, gate) if t is not None] + [dtype]
    taken = y.numel() > 0 and y.shape[-1] <= WIDEST and all(kind in TAKEN for kind in given)
    if torch.compiler.is_compiling() or not taken or implementation(y.device) == "torch":
        return normed(y, weight, gate, activation, dtype)
    from elmanctl.head_norm_kernels import HeadNormFunction

    return HeadNormFunction.apply(y, weight, gate, activation, dtype)

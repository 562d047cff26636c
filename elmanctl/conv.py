"""The causal depthwise convolution over time before a recurrence: the same arithmetic by two routes, those of norms.py.

* `triton`: the kernels of conv_kernels.py, on CUDA, for bf16 and fp32;
* `torch`: `convolved` below, as written, on a CPU, where Triton cannot be imported, in any other dtype, and where torch's compiler looks, which
  fuses it by itself.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from elmanctl.norms import implementation
from elmanctl.tensors import ArgumentError

CONV_WIDTH = 4
TAKEN = (torch.bfloat16, torch.float32)


def convolved(u: Tensor, tail: Tensor, weight: Tensor, bias: Tensor | None = None, silu: bool = False):
    """Compute `causal_conv` as it is defined."""
    T = u.shape[1]
    padded = torch.cat([tail.to(u.dtype), u], 1)
    wide = padded.to(torch.promote_types(u.dtype, torch.float32))
    s = wide[:, :T] * weight[:, 0]
    for k in range(1, CONV_WIDTH):
        s = s + wide[:, k : k + T] * weight[:, k]
    s = (s if bias is None else s + bias).to(u.dtype)
    return F.silu(s) if silu else s, padded[:, T:].to(tail.dtype)


def causal_conv(u: Tensor, tail: Tensor, weight: Tensor, bias: Tensor | None = None, silu: bool = False):
    """Convolve each channel over time, from the three steps before.

    s[t, c] = sum over k = 0..3 of weight[c, k] u[t - 3 + k, c] + bias[c], in fp32, rounded once to the dtype of u

    Args:
        u: [B, T, C]; tail: u of the steps -3, -2 and -1, [B, 3, C], in fp32 where an fp32 or bf16 sequence is taken in pieces.
        weight: [C, 4], as it is stored: autocast does not round it; bias: [C] or None.
        silu: whether silu(s), of s as it is rounded, takes the place of s.
    Returns:
        s, [B, T, C] in the dtype of u, and the new tail, [B, 3, C] in the dtype of tail.
    Raises:
        ArgumentError: for a tail or a weight of another shape.
    """
    B, _, C = u.shape
    for name, tensor, shape in (("tail", tail, (B, CONV_WIDTH - 1, C)), ("weight", weight, (C, CONV_WIDTH))):
        if tensor.shape != shape:
            raise ArgumentError(
                f"{name} has shape {list(tensor.shape)} but u has {list(u.shape)}. Expected {list(shape)}."
            )
    taken = u.numel() > 0 and all(t.dtype in TAKEN for t in (u, tail, weight))
    if torch.compiler.is_compiling() or not taken or implementation(u.device) == "torch":
        return convolved(u, tail, weight, bias, silu)
    from elmanctl.conv_kernels import CausalConvFunction

    return CausalConvFunction.apply(u, tail, weight, bias, silu)

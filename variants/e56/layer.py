"""The E56 layer: tanh recurrence with one weight over [input, state], in a split shell, gated by the second branch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from elmanctl.families.dense_layer import DenseLayer
from elmanctl.norms import working_dtype
from elmanctl.shells import linear

from . import binding


class Halves(torch.autograd.Function):
    """The two column halves of a weight, each a tensor of its own in a dtype; their gradients as one in the weight's.

    The kernel wants its half without gaps, and autocast casts: both are one pass here, over a few MB. Autograd would widen each half's
    gradient and then put them together, a pass over the whole in fp32 more.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        ctx.dtype = weight.dtype
        left, right = weight.chunk(2, dim=1)
        made = {"dtype": dtype, "memory_format": torch.contiguous_format, "copy": True}
        return left.to(**made), right.to(**made)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        rows, columns = gradients[0].shape
        whole = gradients[0].new_empty(rows, 2 * columns, dtype=ctx.dtype)
        for half, d in zip(whole.chunk(2, dim=1), gradients, strict=True):
            half.copy_(d)
        return whole, None


class Layer(DenseLayer):
    """Source: README.md, equations 1 and 2."""

    binding = binding
    split = True

    def make_cell(self, inner: int, config) -> None:
        self.W = linear(2 * inner, inner)

    def inputs(self, u: Tensor, z: Tensor) -> dict[str, Tensor]:
        W_u, W_h = Halves.apply(self.W.weight, working_dtype(u))
        return {"wx": F.linear(u, W_u, self.W.bias), "z": z, "W": W_h}

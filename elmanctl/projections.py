"""Linear projections of one input, as one function for autograd: what torch's own would copy, round or pass over again, it does not."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from elmanctl.casts import cast
from elmanctl.norms import working_dtype
from elmanctl.stepwise import product


class _Project(torch.autograd.Function):
    """Several linear projections of one input, or of its silu, whose gradients by that input are summed inside the products.

    Autograd would make one tensor of the input's size for each and add them: two passes over it more. The weights' casts are kept, as
    autocast does; the silu, as large as the input, is not kept but made again. Several projections may be by rows of one weight, whose
    gradient is then one tensor; outputs cut out of one product would be strided, and their gradients be put together again.
    """

    @staticmethod
    def forward(ctx, silu, rows, x, *weights):
        ctx.silu, ctx.rows, ctx.dtypes = silu, rows, [weight.dtype for weight in weights]
        weights = [cast(weight, x.dtype) for weight in weights]
        ctx.save_for_backward(x, *weights)
        x = F.silu(x) if silu else x
        return tuple(F.linear(x, weight) for weight in _parts(weights, rows))

    @staticmethod
    def backward(ctx, *gradients):
        x, *weights = ctx.saved_tensors
        given = (F.silu(x) if ctx.silu else x).flatten(0, -2)
        gradients = [d.flatten(0, -2) for d in gradients]
        total = None
        pairs = zip(gradients, _parts(weights, ctx.rows), strict=True)
        for d, weight in sorted(pairs, key=lambda pair: pair[1].shape[0]):
            # The largest last: it hides the addition best.
            total = d @ weight if total is None else total.addmm_(d, weight)
        if ctx.rows:
            d_weights = [_stacked(gradients, given, ctx.dtypes[0])]
        else:
            # In fp32 as the product sums it: neither a rounding to bf16 nor a pass over memory to widen it again.
            d_weights = [product(d.mT, given).to(dtype) for d, dtype in zip(gradients, ctx.dtypes, strict=True)]
        total = total.view(x.shape)
        return None, None, torch.ops.aten.silu_backward(total, x) if ctx.silu else total, *d_weights


def _parts(weights: list[Tensor], rows: Sequence[int] | None) -> Sequence[Tensor]:
    """Return what each projection is by: the weights, or parts of the only one."""
    if rows is None:
        return weights
    (weight,) = weights
    return weight.split(rows)


def _stacked(gradients: list[Tensor], x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return d^T x for each d, one below the other; each product writes its rows itself where it can in that dtype."""
    whole = x.new_empty(sum(d.shape[1] for d in gradients), x.shape[1], dtype=dtype)
    for d, out in zip(gradients, whole.split([d.shape[1] for d in gradients]), strict=True):
        if x.dtype == dtype and not torch.compiler.is_compiling():
            torch.mm(d.mT, x, out=out)
        else:
            out.copy_(product(d.mT, x))
    return whole


def project(x: Tensor, *weights: Tensor, silu: bool = False, rows: Sequence[int] | None = None) -> tuple[Tensor, ...]:
    """Return x W^T, or silu(x) W^T, for each weight W [out, in], in autocast's dtype where it is on; x is [..., in].

    Args:
        rows: of one weight, how many rows each output is by: x W[0 : rows[0]]^T, x W[rows[0] : rows[0] + rows[1]]^T and so on, each a
            tensor of its own.
    """
    return _Project.apply(silu, None if rows is None else tuple(rows), x.to(working_dtype(x)), *weights)


class _Columns(torch.autograd.Function):
    """Equal parts of a weight's columns in a dtype: the cast and the copy that closes the gaps are one pass, over a few MB.

    Autograd would widen the gradient of each part and then put them together, a pass over the whole in fp32 more.
    """

    @staticmethod
    def forward(ctx, weight, count, dtype):
        ctx.dtype = weight.dtype
        made = {"dtype": dtype, "memory_format": torch.contiguous_format, "copy": True}
        return tuple(part.to(**made) for part in weight.chunk(count, dim=1))

    @staticmethod
    def backward(ctx, *gradients):
        rows, columns = gradients[0].shape
        whole = gradients[0].new_empty(rows, len(gradients) * columns, dtype=ctx.dtype)
        for part, d in zip(whole.chunk(len(gradients), dim=1), gradients, strict=True):
            part.copy_(d)
        return whole, None, None


def columns(weight: Tensor, count: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return `count` equal parts of a weight's columns, each a tensor of its own, in a dtype."""
    return _Columns.apply(weight, count, dtype)

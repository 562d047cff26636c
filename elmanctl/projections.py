"""Several linear projections of one input, whose gradients by that input are summed inside the products.

Autograd would make one tensor of the input's size for each projection and add them: two passes over it more. Under autocast it would also keep
the cast of every weight until the backward pass.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from elmanctl.norms import working_dtype


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, *weights):
        ctx.save_for_backward(x, *weights)  # the parameters themselves: their casts are made again
        return tuple(F.linear(x, weight.to(x.dtype)) for weight in weights)

    @staticmethod
    def backward(ctx, *gradients):
        x, *weights = ctx.saved_tensors
        rows = x.flatten(0, -2)
        gradients = [d.flatten(0, -2) for d in gradients]
        total = None
        for d, weight in sorted(zip(gradients, weights, strict=True), key=lambda pair: pair[1].shape[0]):
            weight = weight.to(d.dtype)
            total = (
                d @ weight if total is None else total.addmm_(d, weight)
            )  # the largest last: it hides the addition best
        return total.view(x.shape), *((d.mT @ rows).to(w.dtype) for d, w in zip(gradients, weights, strict=True))


def project(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """Return x W^T for each weight W [out, in], in autocast's dtype where it is on; x is [..., in]."""
    return _Project.apply(x.to(working_dtype(x)), *weights)

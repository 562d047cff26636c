"""Cross-entropy of bytes by two Triton kernels: the logits are read as they are in each pass, and no fp32 copy of them is made.

Log-sums are fp32. torch's own (F.cross_entropy of the widened logits) keeps the logits in fp32 and their log-probabilities besides.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 16  # positions of a program


@triton.jit
def cross_entropy_forward(logits, targets, losses, log_sums, rows, classes, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """losses = log_sums - logits[target], log_sums = log of the sum of exp(logits), a row each."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = tl.arange(0, WIDE)
    inside = (row < rows)[:, None] & (at < classes)[None, :]
    value = tl.load(logits + row[:, None] * classes + at[None, :], mask=inside, other=float("-inf")).to(tl.float32)
    value = tl.where((row < rows)[:, None], value, 0.0)
    top = tl.max(value, 1)
    found = top + tl.log(tl.sum(tl.exp(value - top[:, None]), 1))
    target = tl.load(targets + row, mask=row < rows, other=0)
    wanted = tl.sum(tl.where(at[None, :] == target[:, None], value, 0.0), 1)
    tl.store(log_sums + row, found, mask=row < rows)
    tl.store(losses + row, found - wanted, mask=row < rows)


@triton.jit
def cross_entropy_backward(
    logits, targets, log_sums, upstream, gradient, rows, classes, share, ROWS: tl.constexpr, WIDE: tl.constexpr
):
    """gradient = upstream share (exp(logits - log_sums) - 1 at the target)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = tl.arange(0, WIDE)
    inside = (row < rows)[:, None] & (at < classes)[None, :]
    place = row[:, None] * classes + at[None, :]
    value = tl.load(logits + place, mask=inside, other=float("-inf")).to(tl.float32)
    found = tl.load(log_sums + row, mask=row < rows, other=0.0)
    target = tl.load(targets + row, mask=row < rows, other=0)
    chance = tl.exp(value - found[:, None]) - tl.where(at[None, :] == target[:, None], 1.0, 0.0)
    tl.store(gradient + place, chance * (tl.load(upstream) * share), mask=inside)


class CrossEntropy(torch.autograd.Function):
    """Sum of the rows' losses times `share`, fp32; logits [N, V] in bf16 or fp32, targets [N] int64."""

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, share: float) -> Tensor:
        logits = logits.contiguous()
        rows, classes = logits.shape
        losses, log_sums = torch.empty(2, rows, dtype=torch.float32, device=logits.device)
        cross_entropy_forward[(triton.cdiv(rows, ROWS),)](
            logits, targets, losses, log_sums, rows, classes, ROWS=ROWS, WIDE=triton.next_power_of_2(classes)
        )
        ctx.save_for_backward(logits, targets, log_sums)
        ctx.share = share
        return losses.sum() * share

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        logits, targets, log_sums = ctx.saved_tensors
        (rows, classes), gradient = logits.shape, torch.empty_like(logits)
        cross_entropy_backward[(triton.cdiv(rows, ROWS),)](
            logits,
            targets,
            log_sums,
            upstream.contiguous(),
            gradient,
            rows,
            classes,
            ctx.share,
            ROWS=ROWS,
            WIDE=triton.next_power_of_2(classes),
        )
        return gradient, None, None


def cross_entropy(logits: Tensor, targets: Tensor, mean: bool) -> Tensor:
    """Return the mean or the sum of the cross-entropies of logits [N, V] with targets [N], nats in fp32."""
    return CrossEntropy.apply(logits, targets.contiguous(), 1 / len(logits) if mean else 1.0)

"""The kernels of the cross-entropy against torch in fp64, on the device that is named: run by test_triton_kernels.py."""

import sys

import torch
import torch.nn.functional as F

from elmanctl.loss_kernels import cross_entropy

DEVICE = sys.argv[1]


def error(a, b) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def check(rows: int, classes: int, dtype: torch.dtype, mean: bool, scale: float) -> None:
    """Compare loss and gradient, with an upstream gradient that is not one."""
    generator = torch.Generator().manual_seed(rows)
    logits = (scale * torch.randn(rows, classes, generator=generator)).to(DEVICE, dtype).requires_grad_()
    targets = torch.randint(0, classes, (rows,), generator=generator).to(DEVICE)
    found = cross_entropy(logits, targets, mean)
    (gradient,) = torch.autograd.grad(found * 3, logits)
    wide = logits.detach().double().requires_grad_()
    truth = F.cross_entropy(wide, targets, reduction="mean" if mean else "sum")
    (true_gradient,) = torch.autograd.grad(truth * 3, wide)
    what = rows, classes, dtype, mean, scale
    assert found.dtype == torch.float32 and gradient.dtype == dtype
    assert error(found, truth) < 1e-6, (*what, error(found, truth))
    assert error(gradient, true_gradient) < {torch.float32: 2e-6, torch.bfloat16: 2**-8}[dtype], what


for mean in (True, False):
    check(37, 256, torch.float32, mean, 1.0)
    check(37, 256, torch.bfloat16, mean, 100.0)  # where one class has all the chance
    check(1, 200, torch.bfloat16, mean, 1.0)
if DEVICE == "cuda":
    check(16384, 256, torch.bfloat16, True, 1.0)

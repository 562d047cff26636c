"""The kernels of spectral normalisation against spectral.py in fp64, on the device that is named: run by test_spectral.py."""

import sys

import torch

from elmanctl.spectral import SpectralNorm
from elmanctl.spectral_kernels import normalised

DEVICE = sys.argv[1]
SHAPES = {"cpu": ((72, 300),), "cuda": ((48, 48), (1536, 1536), (2048, 2048), (1000, 640))}[DEVICE]


def error(a, b) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def check(shape: tuple[int, int], dtype: torch.dtype, training: bool) -> None:
    generator = torch.Generator().manual_seed(shape[0])
    W, G = (torch.randn(*shape, generator=generator).to(DEVICE) for _ in range(2))
    norm = SpectralNorm(shape[0], 0.95).to(DEVICE).train(training)
    exact = SpectralNorm(shape[0], 0.95).to(DEVICE).double().train(training)
    exact.u.copy_(norm.u)
    before, given = norm.u.clone(), W.clone().requires_grad_()
    ours = normalised(norm, given, dtype)
    (d_ours,) = torch.autograd.grad(ours, given, G.to(dtype))
    wide = W.double().requires_grad_()
    truth = exact(wide)
    (d_truth,) = torch.autograd.grad(truth, wide, G.to(dtype).double())
    bound = {torch.float32: 2e-6, torch.bfloat16: 2**-7}[dtype]
    assert error(ours, truth) < bound, (shape, dtype, training, error(ours, truth))
    assert error(d_ours, d_truth) < 5e-6, (shape, dtype, training, error(d_ours, d_truth))
    assert d_ours.dtype == torch.float32 and ours.dtype == dtype
    assert error(norm.u, exact.u) < 5e-6 and torch.equal(norm.u, before) != training


for shape in SHAPES:
    for kind in (torch.float32, torch.bfloat16):
        for is_training in (True, False):
            check(shape, kind, is_training)

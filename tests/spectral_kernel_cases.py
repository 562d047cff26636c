"""The kernels of spectral normalisation against spectral.py in fp64, on the device that is named: run by test_triton_kernels.py."""

import contextlib
import sys

import torch

from elmanctl.spectral import SpectralNorm
from elmanctl.spectral_kernels import begun, normalised

DEVICE = sys.argv[1]
SHAPES = {"cpu": ((520, 300),), "cuda": ((48, 48), (1536, 1536), (2048, 2048), (1000, 640))}[DEVICE]


def error(a, b) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def check(shape: tuple[int, int], dtype: torch.dtype, training: bool, ahead: bool) -> None:
    """Compare a weight that its reader makes, or finds begun with."""
    generator = torch.Generator().manual_seed(shape[0])
    W, G = (torch.randn(*shape, generator=generator).to(DEVICE) for _ in "WG")
    norm, exact = (SpectralNorm(shape[0], 0.95).to(DEVICE).train(training) for _ in range(2))
    exact.double().u.copy_(norm.u)
    before, given, wide = norm.u.clone(), W.clone().requires_grad_(), W.double().requires_grad_()
    with begun(norm, given, dtype) if ahead else contextlib.nullcontext():
        found = normalised(norm, given, dtype)
    (gradient,) = torch.autograd.grad(found, given, G.to(dtype))
    truth = exact(wide)
    (true_gradient,) = torch.autograd.grad(truth, wide, G.to(dtype).double())
    bound, what = {torch.float32: 2e-6, torch.bfloat16: 2**-7}[dtype], (shape, dtype, training, ahead)
    assert error(found, truth) < bound, (*what, error(found, truth))
    assert error(gradient, true_gradient) < 5e-6, (*what, error(gradient, true_gradient))
    assert gradient.dtype == torch.float32 and found.dtype == dtype
    assert error(norm.u, exact.u) < 5e-6 and torch.equal(norm.u, before) != training


def check_once() -> None:
    """A weight that was begun with is made once, for one reader, and forgotten where nobody asks."""
    norm, W = SpectralNorm(48, 0.95).to(DEVICE), torch.randn(48, 48, device=DEVICE)
    with begun(norm, W, torch.float32):
        one = norm.u.clone()
        normalised(norm, W, torch.float32)
        assert torch.equal(norm.u, one), "u moves once a pass"
        normalised(norm, W, torch.float32)
        assert not torch.equal(norm.u, one), "the second reader makes its own"
    with begun(norm, W, torch.float32):
        two = norm.u.clone()
    normalised(norm, W, torch.float32)
    assert not torch.equal(norm.u, two), "nobody asked, so it is gone"


check_once()
for shape in SHAPES:
    check(shape, torch.float32, True, False)
    check(shape, torch.bfloat16, False, True)
    if DEVICE == "cuda":
        for kind in (torch.float32, torch.bfloat16):
            check(shape, kind, True, True)

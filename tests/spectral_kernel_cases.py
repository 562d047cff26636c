"""The kernels of spectral normalisation against spectral.py in fp64, on the device that is named: run by test_triton_kernels.py."""

import sys

import torch

from elmanctl.spectral import SpectralNorm
from elmanctl.spectral_kernels import MOST, TOGETHER, groups, normalised, together

DEVICE = sys.argv[1]
SHAPES = {"cpu": ((520, 300),), "cuda": ((48, 48), (1536, 1536), (2048, 2048), (1000, 640))}[DEVICE]


def error(a, b) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def check(shape: tuple[int, int], dtype: torch.dtype, training: bool, count: int) -> None:
    """Compare `count` weights of different scale, taken at once where there are several."""
    generator = torch.Generator().manual_seed(shape[0])
    draw = [[torch.randn(*shape, generator=generator).to(DEVICE) * (i + 1) for _ in "WG"] for i in range(count)]
    Ws, Gs = ([pair[i] for pair in draw] for i in (0, 1))
    norms = [SpectralNorm(shape[0], 0.95).to(DEVICE).train(training) for _ in Ws]
    exact = [SpectralNorm(shape[0], 0.95).to(DEVICE).double().train(training) for _ in Ws]
    for ours, truth in zip(norms, exact, strict=True):
        truth.u.copy_(ours.u)
    before, given = [norm.u.clone() for norm in norms], [W.clone().requires_grad_() for W in Ws]
    with together(list(zip(norms, given, strict=True)) if count > 1 else [], dtype):
        found = [normalised(norm, W, dtype) for norm, W in zip(norms, given, strict=True)]
    gradients = torch.autograd.grad(found, given, [G.to(dtype) for G in Gs])
    wide = [W.double().requires_grad_() for W in Ws]
    truths = [norm(W) for norm, W in zip(exact, wide, strict=True)]
    true_gradients = torch.autograd.grad(truths, wide, [G.to(dtype).double() for G in Gs])
    bound, what = {torch.float32: 2e-6, torch.bfloat16: 2**-7}[dtype], (shape, dtype, training, count)
    for i in range(count):
        assert error(found[i], truths[i]) < bound, (*what, i, error(found[i], truths[i]))
        assert error(gradients[i], true_gradients[i]) < 5e-6, (*what, i, error(gradients[i], true_gradients[i]))
        assert gradients[i].dtype == torch.float32 and found[i].dtype == dtype
        assert error(norms[i].u, exact[i].u) < 5e-6 and torch.equal(norms[i].u, before[i]) != training
    with together(list(zip(norms, given, strict=True)), dtype):
        one = [norm.u.clone() for norm in norms]
        [normalised(norm, W, dtype) for norm, W in zip(norms, given, strict=True)]
        assert all(torch.equal(norm.u, u) for norm, u in zip(norms, one, strict=True)), "u moves once a pass"


def check_groups() -> None:
    """Weights of one kind are taken at once, as many as fit."""
    norms = [SpectralNorm(1536, rho).train(mode) for rho, mode in ((0.9, True),) * 4 + ((0.5, True), (0.9, False))]
    W = torch.empty(1536, 1536, device="meta")
    sizes = [len(group) for group in groups([(norm, W) for norm in norms])]
    most = TOGETHER // W.nbytes
    assert sizes == [*(min(most, 4 - i) for i in range(0, 4, most)), 1, 1], sizes
    narrow = [(SpectralNorm(8, 0.9), torch.empty(8, 8, device="meta")) for _ in range(MOST + 2)]
    assert [len(group) for group in groups(narrow)] == [MOST, 2], "a launch takes so many pointers and no more"


check_groups()
for shape in SHAPES:
    check(shape, torch.float32, True, 1)
    check(shape, torch.bfloat16, False, 2)
    if DEVICE == "cuda":
        for kind in (torch.float32, torch.bfloat16):
            check(shape, kind, True, 3)

"""A whole model on the tool's Triton kernels against the same model on torch, on the device that is named: run by test_triton_kernels.py."""

import sys

import torch

from elmanctl import norms, ops, spectral_kernels, together
from elmanctl.families import tied_layer
from elmanctl.model import LadderLM
from elmanctl.plugins.registry import registry

DEVICE = sys.argv[1]
TOKENS = torch.randint(0, 256, (2, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8).to(DEVICE)
made = []


def steps(route: str, dtype: torch.dtype, training: bool, **options) -> list[torch.Tensor]:
    """Return loss, gradients and buffers of two passes in both directions."""
    for module in (norms, tied_layer, together):
        module.implementation = lambda device: route
    torch.manual_seed(0)
    model = LadderLM(registry().resolve("E42"), 64, 3, **options).to(DEVICE).train(training)
    found = []
    with ops.using("reference"):
        for _ in range(2):
            model.zero_grad()
            with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
                loss, _ = model.loss(TOKENS)
            loss.backward()
            found += [loss.detach(), *(p.grad for p in model.parameters()), *(b.clone() for b in model.buffers())]
    return found


def check(dtype: torch.dtype, training: bool, at_once: list[int], **options) -> None:
    made.clear()
    ours, truth = (steps(route, dtype, training, **options) for route in ("triton", "torch"))
    assert made == at_once * 2, made
    assert not spectral_kernels._made
    # Sums of 64 terms and what comes after them: in bf16 what two roundings of an activation make of a gradient.
    bound = {torch.float32: 2e-5, torch.bfloat16: 5e-2}[dtype]
    for a, b in zip(ours, truth, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert (a.double() - b.double()).norm() <= bound * b.double().norm(), (dtype, options, a.shape)


apply = spectral_kernels._apply
spectral_kernels._apply = lambda pairs, dtype: (made.append(len(pairs)), apply(pairs, dtype))[1]
check(torch.float32, True, [3])
check(torch.bfloat16, True, [2, 1, 1], checkpoint_layers=1)  # the first layer alone, and again in the backward pass

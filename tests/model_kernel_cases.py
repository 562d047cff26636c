"""A whole model on the tool's Triton kernels against the same model on torch, on the device that is named: run by test_triton_kernels.py."""

import contextlib
import sys

import torch

from elmanctl import norms, ops, recompute, spectral_kernels
from elmanctl.families import tied_layer
from elmanctl.model import LadderLM
from elmanctl.plugins.registry import registry

DEVICE = sys.argv[1]
TOKENS = torch.randint(0, 256, (2, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8).to(DEVICE)
made = []  # whether each weight that was normalised had been begun with


def steps(route: str, dtype: torch.dtype, training: bool, **options) -> list[torch.Tensor]:
    """Return loss, gradients and buffers of two passes in both directions."""
    for module in (norms, recompute, tied_layer):
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


def check(dtype: torch.dtype, training: bool, begun: list[bool], **options) -> None:
    """Compare both routes; `begun` says of each weight that a pass normalises whether it was begun with, beside the norm before its layer."""
    made.clear()
    ours, truth = (steps(route, dtype, training, **options) for route in ("triton", "torch"))
    assert made == begun * 2, made
    assert not spectral_kernels._begun
    # Sums of 64 terms and what comes after them: in bf16 what two roundings of an activation make of a gradient.
    bound = {torch.float32: 2e-5, torch.bfloat16: 5e-2}[dtype]
    for a, b in zip(ours, truth, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert (a.double() - b.double()).norm() <= bound * b.double().norm(), (dtype, options, a.shape)


make, begin = spectral_kernels._made, spectral_kernels.begun


def counted(*arguments):
    made.append(beginning[-1])
    return make(*arguments)


@contextlib.contextmanager
def noted(*arguments):
    beginning.append(True)
    with begin(*arguments):
        beginning.pop()
        yield


beginning = [False]
spectral_kernels._made, spectral_kernels.begun = counted, noted
check(torch.float32, True, [True] * 3)
# The first layer makes its own, and again in the backward pass.
check(torch.bfloat16, True, [False, True, True, False], checkpoint_layers=1)

"""Zeros that are made once: the same tensor for small shapes, as few as are kept, fit for a backward pass after an evaluation."""

import torch

from elmanctl import zeros as module
from elmanctl.zeros import zeros

CPU = torch.device("cpu")


def test_small_zeros_are_one_tensor_and_large_ones_are_not_kept(monkeypatch):
    monkeypatch.setattr(module, "_kept", {})
    one = zeros((2, 3), torch.float32, CPU)
    assert zeros((2, 3), torch.float32, CPU) is one and not one.any() and one.shape == (2, 3)
    assert zeros((2, 3), torch.bfloat16, CPU).dtype == torch.bfloat16
    large = (module.MOST // 4 + 1,)
    assert zeros(large, torch.float32, CPU) is not zeros(large, torch.float32, CPU)
    assert large not in [shape for shape, _, _ in module._kept]


def test_the_oldest_are_forgotten(monkeypatch):
    monkeypatch.setattr(module, "_kept", {})
    made = [zeros((n,), torch.float32, CPU) for n in range(1, module.COUNT + 2)]
    assert len(module._kept) == module.COUNT
    assert zeros((module.COUNT + 1,), torch.float32, CPU) is made[-1] and zeros((1,), torch.float32, CPU) is not made[0]


def test_what_an_evaluation_made_a_training_step_may_keep(monkeypatch):
    monkeypatch.setattr(module, "_kept", {})
    with torch.inference_mode():
        made = zeros((2,), torch.float32, CPU)
    weight = torch.ones(2, requires_grad=True)
    (weight * made).sum().backward()
    assert not weight.grad.any()

"""Zeros that are made once: the same tensor for small shapes, as few as are kept, fit for a backward pass after an evaluation."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from elmanctl import zeros as module
from elmanctl.plugins.registry import registry
from elmanctl.zeros import zeros

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    monkeypatch.setattr(module, "_recent", {})
    monkeypatch.setattr(module, "_captured", {})


def asked(n: int):
    return zeros((n,), torch.float32, CPU)


def test_small_zeros_are_one_tensor_and_large_ones_are_not_kept():
    one = zeros((2, 3), torch.float32, CPU)
    assert zeros((2, 3), torch.float32, CPU) is one and not one.any() and one.shape == (2, 3)
    assert zeros((2, 3), torch.bfloat16, CPU).dtype == torch.bfloat16
    large = (module.MOST // 4 + 1,)
    assert zeros(large, torch.float32, CPU) is not zeros(large, torch.float32, CPU)
    assert large not in [shape for shape, _, _ in module._recent]


def test_what_was_not_asked_for_the_longest_is_forgotten():
    used, unused = asked(1), asked(2)
    for n in range(3, module.COUNT + 10):
        assert asked(1) is used
        asked(n)
    assert len(module._recent) == module.COUNT and asked(2) is not unused


def test_what_a_capture_was_given_is_never_freed(monkeypatch):
    made = [asked(n) for n in range(1, module.COUNT + 1)]
    with monkeypatch.context() as patched:
        patched.setattr(module, "_capturing", lambda device: True)
        assert all(asked(n) is t for n, t in enumerate(made, 1))
        assert asked(1000) is not asked(1000), "made while capturing, it lies in the graph's own memory"
    for n in range(2000, 2000 + 2 * module.COUNT):
        asked(n)
    assert all(asked(n) is t for n, t in enumerate(made, 1)) and len(module._recent) == module.COUNT


def test_a_dispatch_mode_neither_leaves_its_tensors_behind_nor_is_given_others():
    real = asked(1)
    with FakeTensorMode() as mode:
        fakes = [asked(1), asked(2)]
        assert all(fake.fake_mode is mode for fake in fakes)
    assert asked(1) is real and type(asked(2)) is torch.Tensor


def test_a_layer_runs_after_one_under_a_dispatch_mode():
    def run():
        (layer,) = registry().resolve("E42").layers(64)
        return layer(torch.ones(2, 4, 64))[0]

    with FakeTensorMode():
        run()
    assert type(run()) is torch.Tensor and run().isfinite().all()


def test_what_an_evaluation_made_a_training_step_may_keep():
    with torch.inference_mode():
        made = asked(2)
    weight = torch.ones(2, requires_grad=True)
    (weight * made).sum().backward()
    assert not weight.grad.any()

"""The norm per head as it is defined, and who takes it. The kernels are held against it by head_norm_kernel_cases.py."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F

from elmanctl import head_norm as module
from elmanctl.head_norm import WIDEST, head_norm


def inputs(dtype=torch.float64, M=24):
    generator = torch.Generator().manual_seed(0)
    y, gate = (torch.randn(2, 3, 4, M, generator=generator).to(dtype) for _ in range(2))
    weight = 1 + 0.1 * torch.randn(M, generator=generator)
    return y, weight.to(torch.promote_types(dtype, torch.float32)), gate.flatten(2)


@pytest.mark.parametrize("activation, function", [("silu", F.silu), ("sigmoid", torch.sigmoid)])
def test_is_torch_s_norm_of_each_head_times_its_gate(activation, function):
    y, weight, gate = inputs()
    expected = F.rms_norm(y, (24,), weight, 1e-5)
    torch.testing.assert_close(head_norm(y, weight, None, activation, y.dtype), expected)
    torch.testing.assert_close(
        head_norm(y, weight, gate, activation, y.dtype), expected * function(gate).view_as(expected)
    )


def test_rounds_once():
    y, weight, gate = inputs(torch.bfloat16)
    exact = head_norm(y.double(), weight.double(), gate.double(), "silu", torch.float64)
    found = head_norm(y, weight, gate, "silu", torch.bfloat16)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(
    "dtype, M, taken",
    [
        (torch.bfloat16, 24, True),
        (torch.float32, 8, True),
        (torch.float64, 24, False),
        (torch.float32, WIDEST + 1, False),
    ],
)
def test_the_kernels_take_narrow_heads_in_bf16_and_fp32_where_there_are_some(monkeypatch, dtype, M, taken):
    calls = []
    kernels = types.ModuleType("elmanctl.head_norm_kernels")
    kernels.HeadNormFunction = types.SimpleNamespace(apply=lambda *given: calls.append(given))
    monkeypatch.setitem(sys.modules, kernels.__name__, kernels)
    head_norm(*inputs(dtype, M), "silu", dtype)
    assert calls == [], "not on a CPU"
    monkeypatch.setattr(module, "implementation", lambda device: "triton")
    head_norm(*inputs(dtype, M), "silu", dtype)
    assert bool(calls) == taken

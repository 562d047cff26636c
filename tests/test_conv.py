"""The convolution as it is defined, and who takes it. The kernels are held against it by conv_kernel_cases.py."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F

from elmanctl import conv
from elmanctl.conv import causal_conv
from elmanctl.tensors import ArgumentError


def inputs(dtype=torch.float64, T=7):
    generator = torch.Generator().manual_seed(0)
    u, tail, weight, bias = (torch.randn(*n, generator=generator) for n in ((2, T, 5), (2, 3, 5), (5, 4), (5,)))
    wide = torch.promote_types(dtype, torch.float32)
    return u.to(dtype), tail.to(dtype).to(wide), weight.to(wide), bias.to(wide)


@pytest.mark.parametrize("T", [1, 2, 3, 7])
@pytest.mark.parametrize("silu", [True, False])
def test_is_torch_s_convolution_of_the_tail_and_the_sequence(T, silu):
    u, tail, weight, bias = inputs(T=T)
    s, last = causal_conv(u, tail, weight, bias, silu)
    padded = torch.cat([tail, u], 1)
    expected = F.conv1d(padded.mT, weight[:, None], bias, groups=5).mT
    torch.testing.assert_close(s, F.silu(expected) if silu else expected)
    assert torch.equal(last, padded[:, -3:])


def test_sums_in_fp32_and_rounds_once_autocast_or_not():
    u, tail, weight, bias = inputs(torch.bfloat16)
    exact, _ = causal_conv(u.double(), tail.double(), weight.double(), bias.double())
    with torch.autocast("cpu", torch.bfloat16):
        s, last = causal_conv(u, tail, weight, bias)
    assert s.dtype == torch.bfloat16 and last.dtype == torch.float32
    torch.testing.assert_close(s.double(), exact, rtol=2**-8, atol=1e-6)


def test_a_tail_of_another_batch_and_a_weight_of_other_channels_are_refused():
    u, tail, weight, bias = inputs()
    with pytest.raises(ArgumentError, match=r"tail has shape \[1, 3, 5\] but u has \[2, 7, 5\]. Expected \[2, 3, 5\]."):
        causal_conv(u, tail[:1], weight, bias)
    with pytest.raises(ArgumentError, match=r"weight has shape \[4, 4\] but u has \[2, 7, 5\]. Expected \[5, 4\]."):
        causal_conv(u, tail, weight[:4], bias)


@pytest.mark.parametrize(
    "dtype, taken", [(torch.bfloat16, True), (torch.float32, True), (torch.float64, False), (torch.float16, False)]
)
def test_the_kernels_take_bf16_and_fp32_where_there_are_some(monkeypatch, dtype, taken):
    calls = []
    kernels = types.ModuleType("elmanctl.conv_kernels")
    kernels.CausalConvFunction = types.SimpleNamespace(apply=lambda *given: calls.append(given))
    monkeypatch.setitem(sys.modules, kernels.__name__, kernels)
    causal_conv(*inputs(dtype))
    assert calls == [], "not on a CPU"
    monkeypatch.setattr(conv, "implementation", lambda device: "triton")
    causal_conv(*inputs(dtype))
    assert bool(calls) == taken

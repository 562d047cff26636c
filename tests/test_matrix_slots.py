"""How many steps lie between two saved states of a matrix recurrence: chosen by memory, and right whichever it is."""

import pytest
import torch
from test_matrix_state import check
from torch._subclasses.fake_tensor import FakeTensorMode

from elmanctl import launch, ops
from elmanctl.launch import run_forward
from elmanctl.plugins.registry import registry
from elmanctl.spread import HEADS, steps
from elmanctl.tiles import DEVICES, Device

H200 = DEVICES["sm_90a"]


@pytest.mark.parametrize(
    ("H", "N", "M", "chosen"),
    [
        (12, 128, 128, 16),
        (3, 128, 128, 16),
        (2, 128, 128, 8),  # 16 KiB of slots a token
        (12, 96, 96, 16),
        (4, 96, 96, 16),
        (1, 96, 96, 8),
        (12, 72, 72, 16),
        (100, 64, 64, 8),  # nine states and all else in 205 KB
        (100, 32, 32, 8),
        (12, 64, 256, 8),  # what sixteen steps need besides does not fit
    ],
)
def test_the_steps_between_slots_follow_from_memory(H, N, M, chosen):
    for dtype in ("bfloat16", "float32"):
        for device in (H200, None):
            assert steps({"H": H, "N": N, "M": M}, dtype, device) == chosen
    assert steps({"H": H, "N": N, "M": M}, "float64", None) == 8, "twice the bytes"
    if M == N:
        assert steps({"H": H, "N": N}, "bfloat16", H200) == chosen


def test_a_device_with_less_shared_memory_has_shorter_chunks():
    sizes = {"H": 12, "N": 128}
    assert steps(sizes, "bfloat16", Device(132, 220_000)) == 16
    assert steps(sizes, "bfloat16", Device(132, 210_000)) == 8
    assert HEADS.choose({"B": 32, "T": 512, **sizes}, "bfloat16", H200) == {"SPREAD": 0, "PACKED": 0, "K": 16}


@pytest.mark.parametrize(("name", "T"), [("E88h3n16", 35), ("E88h3n16", 16), ("E75h3n8", 31)])
def test_a_chunk_of_sixteen_steps(name, T):
    with launch.divided({"K": 16, "PACKED": 0}):
        check(name, "float64", T)


def test_a_large_state():
    check("E88h4n96", "float32", 35, B=1)


def test_calls_fakes_and_kernels_agree_on_the_slots():
    spec = registry().resolve("E88h4n96")
    kernel, constants = spec.variant.kernel(), spec.variant.module("binding").constants(spec.config)
    sizes = {**constants, "B": 1, "T": 17, "H": 4}
    inputs = {s.name: torch.zeros(s.shape(sizes)) for s in kernel.input_specs if s.present(constants)}
    out = run_forward(kernel, constants, inputs)
    assert out["slots"].shape[2] == 2
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        fakes = [mode.from_tensor(t) for t in inputs.values()]
        faked = torch.ops.elmanctl.recurrence(ops.register(kernel, constants), fakes)
    assert [t.shape for t in faked] == [t.shape for t in out.values()]

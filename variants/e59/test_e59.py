"""The E59 kernel: forms of its division that sizes to verify at do not take, and what a block's memory holds."""

import pytest
import torch

from elmanctl import launch, ops
from elmanctl.launch import guarded
from elmanctl.plugins.registry import registry
from elmanctl.tiles import DEVICES

VARIANT = registry().resolve("E59").variant
BOUND = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2.0**-8}


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize(
    ("B", "T", "D", "division"),
    [
        (2, 11, 256, {}),
        (1, 6, 512, {"WARPS": 4, "CHUNKS": 1, "WHOLE": 1, "SLOTS": 8}),
        (2, 5, 40, {"SLOTS": 0}),
        (1, 2, 3600, {}),
        (3, 1, 8, {}),
    ],
    ids=[
        "whole",
        "four warps, more slots than steps",
        "no ring",
        "room for exponents to be bounded",
        "one step of one copy",
    ],
)
def test_the_kernel_equals_its_reference(B, T, D, division, dtype):
    kernel, reference = VARIANT.kernel(), VARIANT.module("reference")
    generator = torch.Generator().manual_seed(0)
    shapes = {s.name: s.shape({"B": B, "T": T, "D": D}) for s in kernel.input_specs}
    drawn = reference.draw("typical", shapes, {}, lambda *s: torch.randn(*s, generator=generator, dtype=torch.float64))
    drawn["u"] = drawn["u"].to(dtype).double()
    found = {}
    for backend in ("reference", "host"):
        state = torch.float32 if dtype == torch.bfloat16 else dtype
        kinds = {"u": dtype, "h0": state} if backend == "host" else {"u": torch.float64, "h0": torch.float64}
        inputs = {key: t.to(kinds[key]).requires_grad_() for key, t in drawn.items()}
        with ops.using(backend), launch.divided(division), guarded():
            outputs = ops.recurrence(kernel, inputs, {})
            upstream = [torch.ones_like(o) for o in outputs.values()]
            found[backend] = [
                *outputs.values(),
                *torch.autograd.grad(list(outputs.values()), list(inputs.values()), upstream),
            ]
    for truth, ours in zip(found["reference"], found["host"], strict=True):
        assert (truth - ours.double()).abs().max() < BOUND[dtype] * truth.abs().max()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("D", [8, 640, 1280, 1536, 3072, 4096, 8192, 12288])
@pytest.mark.parametrize("target", ["sm_80", "sm_89", "sm_90a"])
def test_a_division_has_room_for_its_rows(target, D, dtype):
    device, kernel = DEVICES[target], VARIANT.kernel()
    c = kernel.complete({}, {"B": 32, "T": 512, "D": D}, dtype, device)
    room = 128 * c["WARPS"] * c["CHUNKS"]
    element = {"bfloat16": 2, "float32": 4}[dtype]
    shared = 2 * c["WARPS"] * 4 + 2 * room * 4 + c["SLOTS"] * (room * (element + 4) + 16) + 5 * 16
    assert shared <= device.shared_bytes and 96 * c["WARPS"] <= 1024
    assert room - 128 * c["WARPS"] < D <= room and c["WHOLE"] == (room == D)
    assert c["SLOTS"] == 0 or c["SLOTS"] >= 4
    assert c["SLOTS"] == 8 or (target, D) not in {("sm_90a", 1280), ("sm_90a", 1536)}

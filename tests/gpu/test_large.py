"""Tensors of more than 2^31 elements: the last batch rows, whose offsets no int holds, are what they are alone."""

import pytest
import torch

from elmanctl import launch
from elmanctl.plugins.registry import registry
from elmanctl.verify.plan import Plan, Request

# Sizes whose largest inputs have 2.4e9 elements; H heads of 32 in the matrix kernel. 36 GiB each, and what the comparison itself takes.
SIZES = {"E34": {"B": 9, "T": 1 << 17, "D": 2048}, "E88": {"B": 4, "T": 1 << 16, "H": 96}}
ROOM = 60 << 30  # bytes
LAST = 2  # rows compared


def passes(plan: Plan, tensors: dict, upstream: dict) -> dict:
    forward = launch.run_forward(plan.kernel, plan.constants, tensors)
    return forward | launch.run_backward(plan.kernel, plan.constants, {**tensors, **forward}, upstream)


def compare(name: str, sizes: dict[str, int], device: str) -> int:
    """Run a kernel in bf16 on all rows and on the last ones alone, and compare; return the elements of its largest tensor."""
    plan = Plan(Request(registry().resolve(name), "cpu"))
    kernel, constants = plan.kernel, plan.constants
    full, generator = {**constants, **sizes}, torch.Generator(device).manual_seed(0)
    rows = slice(sizes["B"] - LAST, None)

    def draw(spec):
        return torch.randn(
            spec.shape(full), generator=generator, device=device, dtype=getattr(torch, spec.dtype("bfloat16"))
        )

    tensors = {s.name: draw(s) for s in kernel.input_specs if s.present(constants)}
    upstream = {f"d_{s.name}": draw(s) for s in kernel.output_specs if s.present(constants)}
    batched = {s.name: s.dims[0] == "B" for s in (*kernel.input_specs, *kernel.output_specs)}

    def last(group: dict) -> dict:
        return {n: t[rows].contiguous() if batched[n.removeprefix("d_")] else t for n, t in group.items()}

    whole, alone = passes(plan, tensors, upstream), passes(plan, last(tensors), last(upstream))
    seen = 0
    for spec in (*kernel.input_specs, *kernel.output_specs):
        key = spec.name if spec.name in kernel.outputs else f"d_{spec.name}"
        if batched[spec.name] and key in whole:
            torch.testing.assert_close(whole[key][rows], alone[key], rtol=0.02, atol=0.02)
            seen += 1
    assert seen >= 4
    return max(t.numel() for t in tensors.values())


@pytest.mark.gpu
@pytest.mark.parametrize("name", SIZES)
def test_rows_past_two_to_the_31_elements_are_what_they_are_alone(name):
    if torch.cuda.mem_get_info()[0] < ROOM:
        pytest.skip(f"no CUDA device has {ROOM >> 30} GiB free")
    assert compare(name, SIZES[name], "cuda") > 2**31


@pytest.mark.parametrize(("name", "sizes"), [("E34", {"B": 5, "T": 9, "D": 16}), ("E88", {"B": 3, "T": 9, "H": 2})])
def test_the_comparison_itself_on_the_host(name, sizes):
    assert compare(name, sizes, "cpu") > 0

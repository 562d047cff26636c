"""The pointwise recurrences on the host backend against their references in fp64 with autograd."""

import pytest
import torch

from elmanctl import launch, ops
from elmanctl.launch import guarded
from elmanctl.plugins.registry import registry

# Every variant of the family, and the options that compile another step.
NAMES = [
    "E34",
    "diagonal",
    "diagonal:activation=tanh",
    "E61",
    "E61b",
    "E61c",
    "E62",
    "E62b",
    "E64",
    "E65",
    "E67",
    "E68",
    "E68i",
    "mingru",
    "minlstm",
]
# Relative to the largest element. fp64, fp32: a few hundred ulp of the accumulator over chains of T and sums over B T. bf16: half an ulp.
BOUND = {torch.float64: 1e-13, torch.float32: 3e-5, torch.bfloat16: 2.0**-8}


def case(name, B, T, D, dtype=torch.float64, kind="typical"):
    """Return (kernel, constants, inputs in the kernel's dtypes)."""
    spec = registry().resolve(name)
    binding, reference = spec.variant.module("binding"), spec.variant.module("reference")
    kernel, constants = binding.kernel, binding.constants(spec.config)
    generator = torch.Generator().manual_seed(0)
    shapes = {s.name: s.shape({"B": B, "T": T, "D": D, **constants}) for s in kernel.input_specs}
    drawn = reference.draw(
        kind, shapes, constants, lambda *s: torch.randn(*s, generator=generator, dtype=torch.float64)
    )
    accumulator = torch.float32 if dtype == torch.bfloat16 else dtype
    kinds = {s.name: accumulator if s.kind == "acc" else dtype for s in kernel.input_specs}
    return kernel, constants, {n: t.to(kinds[n]) for n, t in drawn.items()}


def run(kernel, constants, inputs, backend):
    """Return outputs and the gradient of every input, for random gradients of every output."""
    inputs = {n: t.detach().clone().requires_grad_() for n, t in inputs.items()}
    with ops.using(backend), guarded():
        outputs = ops.recurrence(kernel, inputs, constants)
        generator = torch.Generator().manual_seed(1)
        upstream = [torch.randn(o.shape, generator=generator).to(torch.bfloat16).to(o.dtype) for o in outputs.values()]
        gradients = torch.autograd.grad(list(outputs.values()), list(inputs.values()), upstream)
    return outputs | {f"d_{n}": g for n, g in zip(inputs, gradients, strict=True)}


def check(name, B, T, D, dtype=torch.float64, kind="typical"):
    kernel, constants, inputs = case(name, B, T, D, dtype, kind)
    truth = run(kernel, constants, {n: t.double() for n, t in inputs.items()}, "reference")
    found = run(kernel, constants, inputs, "host")
    assert set(found) == {"y", "h_last", *(f"d_{n}" for n in kernel.inputs)}
    for tensor, value in found.items():
        error = (value.double() - truth[tensor]).abs().max() / truth[tensor].abs().max()
        assert error < BOUND[dtype], (name, tensor, float(error))


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_all_gradients(name):
    check(name, 3, 11, 40)
    check(name, 2, 9, 8, kind="extreme")


@pytest.mark.parametrize(("B", "T", "D"), [(1, 1, 8), (5, 7, 24), (2, 8, 32), (1, 101, 16), (33, 2, 8)])
def test_any_batch_length_and_width_of_whole_copies(B, T, D):
    """Blocks span batch rows, the last block and the last stage are partly empty, and the ring goes around several times."""
    check("E68", B, T, D)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["E34", "E68"])
def test_two_channels_a_thread_a_warp_for_itself_and_a_short_ring(name, dtype):
    with launch.divided({"CHANNELS": 2, "WARPS": 1, "FLIGHT": 1}):
        check(name, 3, 43, 40, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lower_precision(dtype):
    check("diagonal", 3, 11, 40, dtype)


def test_a_width_that_is_no_whole_copy_is_refused():
    kernel, constants, inputs = case("E34", 1, 2, 12)
    with pytest.raises(RuntimeError, match="D=12 is not a multiple of 8"):
        launch.run_forward(kernel, constants, inputs)


def test_the_state_before_each_step_is_kept():
    kernel, constants, inputs = case("E65", 2, 5, 16)
    out = launch.run_forward(kernel, constants, inputs)
    assert torch.equal(out["h"][:, 0], inputs["h0"]) and torch.equal(out["h"][:, -1], out["h_last"])

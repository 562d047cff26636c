"""The dense and the tied recurrences on the host backend against their references in fp64 with autograd."""

import importlib

import pytest
import torch

from elmanctl import launch, ops

PACKAGES = ["elmanctl_variants.e1", "elmanctl_variants.e42"]  # E42's input shares the matrix of the state
# Relative to the largest element. fp64 and fp32: a few hundred ulp of the accumulator over sums of at most B T D = 1000 terms.
# bf16: half an ulp (2^-9) each at load-free stores and at the two declared rounding points, carried over 7 steps.
BOUND = {torch.float64: 1e-13, torch.float32: 3e-5, torch.bfloat16: 2e-2}


def case(package, T, B=3, D=48, dtype=torch.float64, kind="typical", seed=0):
    """Return (kernel, reference module, inputs in fp64 that `dtype` holds exactly)."""
    kernel = importlib.import_module(f"{package}.binding").kernel
    reference = importlib.import_module(f"{package}.reference")
    generator = torch.Generator().manual_seed(seed)
    sizes = {"B": B, "T": T, "D": D}
    shapes = {s.name: s.shape(sizes) for s in kernel.input_specs}
    inputs = reference.draw(kind, shapes, {}, lambda *s: torch.randn(*s, generator=generator, dtype=torch.float64))
    accumulator = torch.float32 if dtype == torch.bfloat16 else dtype
    kinds = {s.name: accumulator if s.kind == "acc" else dtype for s in kernel.input_specs}
    return kernel, reference, {name: t.to(kinds[name]).double() for name, t in inputs.items()}, kinds


def run(kernel, inputs, backend, seed=1, cublas=0, silu=1):
    """Return outputs and the gradient of every input, for random gradients of every output."""
    constants = {name: value for name, value in (("CUBLAS", cublas), ("SILU", silu)) if name in kernel.constants}
    inputs = {name: t.detach().clone().requires_grad_() for name, t in inputs.items()}
    with ops.using(backend):
        outputs = ops.recurrence(kernel, inputs, constants)
    generator = torch.Generator().manual_seed(seed)
    upstream = [torch.randn(o.shape, generator=generator).to(torch.bfloat16).to(o.dtype) for o in outputs.values()]
    gradients = torch.autograd.grad(list(outputs.values()), list(inputs.values()), upstream)
    return outputs | {f"d_{name}": g for name, g in zip(inputs, gradients, strict=True)}


@pytest.mark.parametrize("cublas", [0, 1], ids=["kernel", "cublas"])
@pytest.mark.parametrize("T", [1, 2, 3, 7])
@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("package", PACKAGES)
def test_outputs_and_all_gradients(package, dtype, T, cublas):
    kernel, _, inputs, kinds = case(package, T, dtype=dtype)
    truth = run(kernel, inputs, "reference")
    found = run(kernel, {name: t.to(kinds[name]) for name, t in inputs.items()}, "host", cublas=cublas)
    assert set(found) == {"y", "h_last", *(f"d_{name}" for name in kernel.inputs)}
    for name, value in found.items():
        error = (value.double() - truth[name]).abs().max() / truth[name].abs().max()
        assert error < BOUND[dtype], (name, float(error))


@pytest.mark.parametrize(
    "sizes", [{"B": 1, "D": 16}, {"B": 17, "D": 80}, {"B": 33, "D": 112}, {"B": 8, "D": 128}, {"B": 2, "D": 144}]
)
@pytest.mark.parametrize("package", PACKAGES)
def test_any_batch_and_any_width_of_whole_tiles(package, sizes):
    kernel, _, inputs, _ = case(package, 2, **sizes, kind="extreme")
    truth, found = run(kernel, inputs, "reference"), run(kernel, inputs, "host")
    for name, value in found.items():
        assert (value - truth[name]).abs().max() < 1e-13 * truth[name].abs().max(), name


@pytest.mark.parametrize("package", PACKAGES)
def test_a_bf16_build_rounds_only_where_it_declares(package):
    """Rounding the reference at loads, stores and the product's operand gives the kernel's bf16 outputs to one rounding of fp32 sums."""
    kernel, reference, inputs, kinds = case(package, 7, dtype=torch.bfloat16)
    operand = next(name for name, kind in kernel.rounds.items() if kind == "forward")
    rounded = reference.forward(**inputs, at=lambda name, x: x.bfloat16().double() if name == operand else x)
    found = run(kernel, {name: t.to(kinds[name]) for name, t in inputs.items()}, "host")
    assert (found["h_last"].double() - rounded[1]).abs().max() < 1e-6 * rounded[1].abs().max()
    assert (found["y"].double() - rounded[0].bfloat16().double()).abs().max() < 2**-8 * rounded[0].abs().max()
    carried = reference.forward(**inputs, at=lambda name, x: x.bfloat16().double())
    assert (found["h_last"].double() - carried[1]).abs().max() > 1e-4 * carried[1].abs().max(), "the carry is fp32"


@pytest.mark.parametrize("cublas", [0, 1], ids=["kernel", "cublas"])
def test_a_tied_recurrence_takes_an_input_as_it_is_where_the_shell_took_its_silu(cublas):
    kernel, _, inputs, _ = case("elmanctl_variants.e42", 3)
    x = torch.nn.functional.silu(inputs["u"])
    as_it_is = run(kernel, inputs | {"u": x}, "host", cublas=cublas, silu=0)
    truth, taken = run(kernel, inputs | {"u": x}, "reference", silu=0), run(kernel, inputs, "host", cublas=cublas)
    assert all((as_it_is[n] - truth[n]).abs().max() < 1e-13 * truth[n].abs().max() for n in truth)
    assert (as_it_is["y"] - taken["y"]).abs().max() < 1e-13 * truth["y"].abs().max()
    assert (as_it_is["d_u"] - taken["d_u"]).abs().max() > 0.1 * truth["d_u"].abs().max()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_width_that_is_no_multiple_of_the_tile_is_refused(package):
    kernel, _, inputs, _ = case(package, 2, D=24)
    with pytest.raises(RuntimeError, match=r"D=24 is not a multiple of 16, the kernel's tile"):
        run(kernel, inputs, "host")


@pytest.mark.parametrize("package", PACKAGES)
def test_products_of_the_library_give_the_kernels_results_at_any_width(package):
    """The second mode needs no tile, and where both run they differ by the order of fp32 sums only."""
    kernel, _, inputs, _ = case(package, 3, D=24)
    truth, found = run(kernel, inputs, "reference"), run(kernel, inputs, "host", cublas=1)
    assert all((found[n] - truth[n]).abs().max() < 1e-13 * truth[n].abs().max() for n in found)
    kernel, _, inputs, kinds = case(package, 7, dtype=torch.bfloat16)
    given = {name: t.to(kinds[name]) for name, t in inputs.items()}
    ours, theirs = (run(kernel, given, "host", cublas=c) for c in (0, 1))
    assert (ours["h_last"] - theirs["h_last"]).abs().max() < 1e-5 * theirs["h_last"].abs().max()


def test_a_chosen_division_is_replaced_only_where_asked():
    """By one whose ring is the shortest that there may be, and goes around twice."""
    kernel, _, inputs, _ = case(PACKAGES[0], 18, B=9, D=128)
    first = run(kernel, inputs, "host")
    with launch.divided({"WARPS": 8, "CHUNKS": 2, "TILES": 4, "SHARED": 0, "TURNS": 1, "WHOLE": 0, "RING": 8}):
        other = run(kernel, inputs, "host")
    assert all((first[n] - other[n]).abs().max() < 1e-13 * first[n].abs().max() for n in first)
    with (
        launch.divided({"WARPS": 2, "CHUNKS": 1, "TILES": 1, "SHARED": 1}),
        pytest.raises(RuntimeError, match="D=128 in a build"),
    ):
        run(kernel, inputs, "host")

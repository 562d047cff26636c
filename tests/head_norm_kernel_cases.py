"""The kernels of a norm per head against the definition in fp64, on the device that is named: run by test_triton_kernels.py."""

import importlib.util
import sys
import tempfile
from pathlib import Path

import torch

from elmanctl import head_norm, head_norm_kernels, norms, ops
from elmanctl.head_norm import normed
from elmanctl.plugins.registry import registry

DEVICE = sys.argv[1]
CPU = DEVICE == "cpu"
# Shapes of y: heads as wide as a tile's row and not, tiles that are not full, more tiles than programs.
SHAPES = (
    ((1, 1, 1, 8), (2, 3, 3, 24), (2, 70, 5, 32))
    if CPU
    else ((1, 1, 1, 8), (2, 67, 5, 24), (8, 512, 16, 32), (3, 50, 7, 200))
)


def results(function, y, weight, gate, d_out, activation, dtype) -> list[torch.Tensor]:
    """Return the result and the gradients of y, the weight and the gate."""
    leaves = [t.detach().clone().requires_grad_() for t in (y, weight, gate) if t is not None]
    out = function(*leaves[:2], leaves[2] if gate is not None else None, activation, dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, d_out.to(out.dtype))]


def error(a, b) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def check(shape, dtype: torch.dtype, activation: str, kernels=head_norm_kernels) -> None:
    """Compare with fp64, and two runs on a GPU; `activation` is empty without a gate."""
    generator = torch.Generator().manual_seed(shape[-1])
    y, gate, d_out = (torch.randn(*shape, generator=generator).to(DEVICE, dtype) for _ in range(3))
    weight = 1 + 0.1 * torch.randn(shape[-1], generator=generator).to(DEVICE)
    given = (y, weight, gate if activation else None, d_out)
    ours = results(kernels.HeadNormFunction.apply, *given, activation, dtype)
    if not CPU:
        again = results(kernels.HeadNormFunction.apply, *given, activation, dtype)
        assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True)), "two runs differ"
    exact = results(normed, *(None if t is None else t.double() for t in given), activation, torch.float64)
    for name, a, b in zip(("o", "d_y", "d_weight", "d_gate"), ours, exact, strict=False):
        # Sums in fp32; a store in bf16 loses half a unit, or a unit where it cuts off, as the interpreter does.
        bound = 2**-7 if dtype == torch.bfloat16 and name != "d_weight" else 2e-6
        assert a.dtype == (torch.float32 if name == "d_weight" else dtype)
        assert error(a, b) < bound, (shape, dtype, activation, name, error(a, b))


apply, calls = head_norm_kernels.HeadNormFunction.apply, []


def counted(*given):
    calls.append(given[0].dtype)
    return apply(*given)


def check_layer(name: str, dim: int) -> None:
    """A layer by both routes; an fp64 one takes torch's on either."""
    x = torch.randn(2, 9, dim, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    head_norm_kernels.HeadNormFunction.apply = counted
    for dtype, bound in ((torch.float32, 2e-5), (torch.float64, 1e-12)):
        found = []
        for route in ("triton", "torch"):
            head_norm.implementation = lambda device, route=route: route
            torch.manual_seed(0)
            (layer,) = registry().resolve(name).layers(dim)
            layer = layer.to(DEVICE, dtype).eval()
            with ops.using("reference"):
                y, _ = layer(x.to(dtype))
            y.square().sum().backward()
            found.append([y.detach(), *(p.grad for p in layer.parameters())])
        assert all(error(a, b) <= bound for a, b in zip(*found, strict=True)), (name, dtype)
    assert calls == [torch.float32], (name, calls)
    calls.clear()
    head_norm.implementation, head_norm_kernels.HeadNormFunction.apply = norms.implementation, apply


MUTANTS = (
    ("/ M + eps))[:, None]", "/ WIDE + eps))[:, None]"),
    ("sums += d * unit", "sums += d * value"),
    ("(d - unit * (tl.sum(d * unit, 1)", "(d - unit * (tl.sum(d * value, 1)"),
    ("else sigmoid * (1 - sigmoid)", "else sigmoid * sigmoid"),
    ("tl.num_programs(0) * ROWS)", "tl.num_programs(0) * ROWS * 2)"),
)


def check_mutants() -> None:
    """Each mistake in the kernels is found."""
    source = Path(head_norm_kernels.__file__).read_text()
    with tempfile.TemporaryDirectory() as folder:
        for number, (right, wrong) in enumerate(MUTANTS):
            assert right in source, right
            path = Path(folder, f"mutant_{number}.py")
            path.write_text(source.replace(right, wrong))
            spec = importlib.util.spec_from_file_location(path.stem, path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            module.BACKWARD, module.PROGRAMS = 64, 1
            try:
                check((2, 3, 3, 24), torch.float32, "sigmoid", module)
            except AssertionError:
                continue
            raise SystemExit(f"not found: {right} -> {wrong}")


if CPU:
    check_mutants()
    head_norm_kernels.BACKWARD, head_norm_kernels.PROGRAMS = 512, 2
for size in SHAPES:
    for kind in (torch.float32, torch.bfloat16):
        for act in ("", "silu", "sigmoid"):
            check(size, kind, act)
check_layer("E88h2n8:use_output_norm=true", 32)
check_layer(
    "E88h2n8:use_output_norm=true,use_gate=true,gate_activation=sigmoid,use_value_residual=true,expansion=3", 32
)

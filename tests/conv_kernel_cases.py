"""The convolution's kernels against the definition in fp64, on the device that is named: run by test_triton_kernels.py."""

import importlib.util
import sys
import tempfile
from pathlib import Path

import torch

from elmanctl import conv, conv_kernels, norms, ops
from elmanctl.conv import convolved
from elmanctl.plugins.registry import registry

DEVICE = sys.argv[1]
CPU = DEVICE == "cpu"
# B, T, C: fewer steps than the tail has, blocks that end within a group of steps, channels that are no whole group.
SMALL = ((1, 1, 5), (2, 2, 130), (1, 3, 128), (3, 5, 3), (2, 21, 5))
SHAPES = SMALL if CPU else (*SMALL, (2, 67, 130), (3, 133, 200), (4, 512, 1536), (2, 130, 2049))
BLOCKS = {"BLOCK": 8, "STEPS": 4}  # on a CPU, so that few steps are several blocks
NAMES = ("s", "tail", "d_u", "d_tail", "d_weight", "d_bias")


def inputs(shape, dtype: torch.dtype, bias: bool) -> tuple[dict, list]:
    """Return u, a half of a wider tensor as a layer with two branches has it, tail, weight and bias, and gradients of s and of the new tail."""
    B, T, C = shape
    generator = torch.Generator().manual_seed(B * T * C)

    def draw(*sizes):
        return torch.randn(*sizes, generator=generator).to(DEVICE)

    given = {"u": draw(B, T, 2 * C).to(dtype).chunk(2, -1)[1], "tail": draw(B, 3, C).to(dtype).float()}
    given |= {"weight": draw(C, 4)} | ({"bias": draw(C)} if bias else {})
    return given, [draw(B, T, C + 1).to(dtype)[..., 1:], draw(B, 3, C)]


def results(function, given: dict, upstream: list, silu: bool, wide: bool = False) -> list[torch.Tensor]:
    """Return s, the new tail, and gradients of what is given; an upstream None: nothing reads it."""
    leaves = {n: (t.double() if wide else t).detach().requires_grad_() for n, t in given.items()}
    made = function(leaves["u"], leaves["tail"], leaves["weight"], leaves.get("bias"), silu)
    read = [(o, g) for o, g in zip(made, upstream, strict=True) if g is not None]
    gradients = torch.autograd.grad(
        [o for o, _ in read], leaves.values(), [g.to(o.dtype) for o, g in read], allow_unused=True
    )
    return [*(t.detach() for t in made), *gradients]


def error(a, b) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30)).item()


def check(shape, dtype: torch.dtype, bias: bool, silu: bool, alone: bool, kernels=conv_kernels) -> None:
    """Compare with fp64, and two runs on a GPU; `alone`: nothing reads the new tail."""
    given, upstream = inputs(shape, dtype, bias)
    upstream[1] = None if alone else upstream[1]
    ours = results(kernels.CausalConvFunction.apply, given, upstream, silu)
    if not CPU:  # where one thread does one thing after the other
        again = results(kernels.CausalConvFunction.apply, given, upstream, silu)
        assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True)), "two runs differ"
    exact = results(convolved, given, upstream, silu, wide=True)
    assert torch.equal(ours[1].double(), exact[1]), (shape, "the new tail is a copy")
    for name, a, b in zip(NAMES, ours, exact, strict=False):
        # Sums in fp32; a store in bf16 loses half a unit, or a unit where it cuts off, as the interpreter does, and silu reads a rounded sum.
        rounds = dtype == torch.bfloat16 and (silu or name in ("s", "d_u"))
        bound = 2**-7 if rounds else 2e-6
        assert a.dtype == (dtype if name in ("s", "d_u") else torch.float32)
        assert error(a, b) < bound, (shape, dtype, bias, silu, alone, name, error(a, b))


def check_pieces(dtype: torch.dtype, silu: bool) -> None:
    """A sequence in pieces that carry the tail is the whole, bit for bit; so are the gradients, to rounding."""
    given, upstream = inputs((1, 14, 5), dtype, True)

    def pieces(u, tail, weight, bias, silu):
        found = []
        for low, high in ((0, 1), (1, 3), (3, 12), (12, 14)):
            s, tail = conv_kernels.CausalConvFunction.apply(u[:, low:high], tail, weight, bias, silu)
            found.append(s)
        return torch.cat(found, 1), tail

    whole, cut = (results(f, given, upstream, silu) for f in (conv_kernels.CausalConvFunction.apply, pieces))
    assert torch.equal(whole[0], cut[0]) and torch.equal(whole[1], cut[1])
    for a, b in zip(cut[2:], whole[2:], strict=True):
        assert error(a, b) < {torch.float32: 2e-6, torch.bfloat16: 2**-7}[dtype], error(a, b)


def check_what_nobody_wants() -> None:
    """Without a gradient of the tail the others are the same; of the new tail alone there is one as well."""
    given, upstream = inputs((2, 5, 130), torch.float32, True)
    u, weight, bias = (given[n].detach().requires_grad_() for n in ("u", "weight", "bias"))
    s, _ = conv_kernels.CausalConvFunction.apply(u, given["tail"], weight, bias, True)
    found = torch.autograd.grad(s, (u, weight, bias), upstream[0])
    whole = results(conv_kernels.CausalConvFunction.apply, given, [upstream[0], None], True)
    assert all(torch.equal(a, b) for a, b in zip(found, (whole[2], *whole[4:]), strict=True))
    (du,) = torch.autograd.grad(
        conv_kernels.CausalConvFunction.apply(u, given["tail"], weight, bias, True)[1], u, upstream[1]
    )
    assert torch.equal(du[:, 2:], upstream[1]) and not du[:, :2].any()


apply, calls = conv_kernels.CausalConvFunction.apply, []


def counted(*given):
    calls.append(given[0].dtype)
    return apply(*given)


def check_layer(name: str, dim: int) -> None:
    """A layer by both routes; an fp64 one takes torch's on either."""
    x = torch.randn(2, 9, dim, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    conv_kernels.CausalConvFunction.apply = counted
    for dtype, bound in ((torch.float32, 2e-5), (torch.float64, 1e-12)):
        found = []
        for route in ("triton", "torch"):
            conv.implementation = lambda device, route=route: route
            torch.manual_seed(0)
            (layer,) = registry().resolve(name).layers(dim)
            layer = layer.to(DEVICE, dtype).eval()
            with ops.using("reference"):
                y, last = layer(x.to(dtype))
            (y.square().sum() + last["conv"].sum()).backward()
            found.append([y.detach(), *(p.grad for p in layer.parameters())])
        assert all(error(a, b) <= bound for a, b in zip(*found, strict=True)), (name, dtype)
    assert calls == [torch.float32], (name, calls)
    calls.clear()
    conv.implementation, conv_kernels.CausalConvFunction.apply = norms.implementation, apply


MUTANTS = (
    ("s += taps[2] * us[2]", "s += taps[2] * us[1]"),
    ("first, j - 3, u_time", "first, j - 2, u_time"),
    ("(first + t < 0)", "(first + t < -1)"),
    ("tl.minimum(rest, BLOCK + 3)", "tl.minimum(rest, BLOCK)"),
    ("there & (t + 3 >= rest) & (t < rest)", "there & (t + 2 >= rest) & (t < rest)"),
    ("tl.where(first == 0, us[0], 0.0)", "us[0]"),
    ("tl.where(first == 0, latest, 0.0)", "0.0"),
    ("(1 + s * (1 - sigmoid))", "(1 + s * sigmoid)"),
    ("tap < 4", "tap < 3"),
)


def check_mutants() -> None:
    """Each mistake in the kernels is found."""
    source = Path(conv_kernels.__file__).read_text()
    with tempfile.TemporaryDirectory() as folder:
        for number, (right, wrong) in enumerate(MUTANTS):
            assert right in source, right
            path = Path(folder, f"mutant_{number}.py")
            path.write_text(source.replace(right, wrong))
            spec = importlib.util.spec_from_file_location(path.stem, path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            module.FORWARD = module.BACKWARD = BLOCKS
            try:
                check((1, 10, 5), torch.float32, True, True, False, module)
            except AssertionError:
                continue
            raise SystemExit(f"not found: {right} -> {wrong}")


check((1, 67, 5), torch.bfloat16, True, True, False)
if CPU:
    conv_kernels.FORWARD = conv_kernels.BACKWARD = BLOCKS
    check_mutants()
for number, size in enumerate(SHAPES):
    for kind in (torch.float32, torch.bfloat16):
        for silu in (True, False):
            check(size, kind, bool(number % 2) == silu, silu, number == 1)
            if not CPU:
                check(size, kind, bool(number % 2) != silu, silu, number != 1)
check_pieces(torch.float32, True)
check_pieces(torch.bfloat16, False)
check_what_nobody_wants()
check_layer("E88h2n8:use_conv=true", 32)
check_layer("E1:conv=true", 32)

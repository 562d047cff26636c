"""The add-and-norm kernels against the definition in fp64, on the device that is named: run by test_triton_kernels.py."""

import sys

import torch

from elmanctl.norm_kernels import AddNormFunction
from elmanctl.norms import EPS, add_norm

DEVICE = sys.argv[1]
WIDTHS = {"cpu": (16, 33, 300), "cuda": (33, 1536, 2432, 3200, 4736)}[DEVICE]
ROWS = {"cpu": (3, 2), "cuda": (7, 301)}[DEVICE]


def results(function, x, r, weight, du, dstream):
    """Return u, stream, and the gradients of what is given; `dstream` None: nothing reads the stream."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, r, weight) if t is not None]
    x, r, weight = leaves[0], leaves[1] if r is not None else None, leaves[-1]
    u, stream = function(x, r, weight)
    outputs, upstream = ((u,), (du,)) if dstream is None else ((u, stream), (du, dstream))
    gradients = torch.autograd.grad(outputs, leaves, [g.to(o.dtype) for g, o in zip(upstream, outputs, strict=True)])
    return [u.detach(), stream.detach(), *gradients]


def error(a, b) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def check(D: int, dtype: torch.dtype, first: bool, alone: bool) -> None:
    generator = torch.Generator().manual_seed(D)
    draw = [torch.randn(*ROWS, D, generator=generator).to(DEVICE) for _ in range(4)]
    x, r, du, dstream = draw[0].to(dtype), None if first else draw[1], draw[2].to(dtype), None if alone else draw[3]
    weight = 1 + 0.1 * torch.randn(D, generator=generator).to(DEVICE)
    weight[0] = 0.0  # whose column has no normalised input to be found
    ours = results(lambda *given: AddNormFunction.apply(*given, EPS, dtype), x, r, weight, du, dstream)
    again = results(lambda *given: AddNormFunction.apply(*given, EPS, dtype), x, r, weight, du, dstream)
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True)), "two runs differ"
    wide = [t if t is None else t.double() for t in (x, r, weight, du, dstream)]
    exact = results(lambda *given: add_norm(*given, torch.float64), *wide)
    # Sums of D or of all rows in fp32; a store in bf16 loses half a unit, or a unit where it cuts off, as the interpreter does.
    bounds = {torch.float32: 2e-6, torch.bfloat16: 2**-7}[dtype]
    assert error(ours[1], exact[1]) < 2e-6, (D, "stream")
    assert ours[-1][0] == 0 and bool(ours[-1].isfinite().all())
    ours[-1], exact[-1] = (
        ours[-1][1:],
        exact[-1][1:],
    )  # what is left out of column 0 of dx and dr is far below the bounds only in fp32
    ours = [t[..., 1:] if t.dim() > 1 else t for t in ours]
    exact = [t[..., 1:] if t.dim() > 1 else t for t in exact]
    for number, (a, b) in enumerate(zip(ours, exact, strict=True)):
        assert error(a, b) < bounds, (D, dtype, first, alone, number, error(a, b))


for width in WIDTHS:
    for kind in (torch.float32, torch.bfloat16):
        for is_first in (True, False):
            for reads_only_u in (True, False):
                check(width, kind, is_first, reads_only_u)

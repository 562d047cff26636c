"""The kernels of embedding and first norm against the definition in fp64, on the device that is named: run by test_triton_kernels.py."""

import sys

import torch
import torch.nn.functional as F

from elmanctl.embedding_kernels import EmbeddingNormFunction
from elmanctl.norm_kernels import AddNormFunction
from elmanctl.norms import BYTES, EPS, add_norm

DEVICE = sys.argv[1]
WIDTHS = {"cpu": (300,), "cuda": (128, 1536, 2432, 4736)}[DEVICE]
KINDS = {"cpu": ("text", "all"), "cuda": ("all", "text", "alone", "ends")}[DEVICE]
SHAPE = {"cpu": (3, 9), "cuda": (7, 701)}[DEVICE]


def tokens(kind: str, generator: torch.Generator) -> torch.Tensor:
    """Return bytes: all of them, a text's few, one alone, or the two ends."""
    if kind == "alone":
        return torch.full(SHAPE, 32, dtype=torch.uint8)
    low, high = {"all": (0, 256), "text": (97, 103), "ends": (0, 2)}[kind]
    drawn = torch.randint(low, high, SHAPE, generator=generator)
    return (drawn * 255 if kind == "ends" else drawn).to(torch.uint8)


def results(both, table, x, weights, upstream):
    """Return u of the first and of the second norm, the new stream, and the gradients of table, x and weights."""
    leaves = [t.detach().clone().requires_grad_() for t in (table, x, *weights)]
    outputs = both(*leaves)
    chosen = [(o, g.to(o.dtype)) for o, g in zip(outputs, upstream, strict=True) if g is not None]
    gradients = torch.autograd.grad([o for o, _ in chosen], leaves, [g for _, g in chosen], allow_unused=True)
    return [o.detach() for o in outputs], gradients


def error(a, b) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def check(D: int, dtype: torch.dtype, kind: str, first_alone: bool) -> None:
    generator = torch.Generator().manual_seed(D)
    index = tokens(kind, generator).to(DEVICE)
    table = torch.randn(BYTES, D, generator=generator).to(DEVICE)
    x, du, du2, ds = (torch.randn(*SHAPE, D, generator=generator).to(DEVICE) for _ in range(4))
    weights = [1 + 0.1 * torch.randn(D, generator=generator).to(DEVICE) for _ in range(2)]
    upstream = (du.to(dtype), None, None) if first_alone else (du.to(dtype), du2.to(dtype), ds)

    def ours(table, x, *weights):
        u, gradient = EmbeddingNormFunction.apply(index, table, weights[0], EPS, dtype)
        assert gradient.shape == x.shape
        return u, *AddNormFunction.apply(x, gradient, weights[1], EPS, dtype, True, table.detach(), index)

    def exact(table, x, *weights):
        u, stream = add_norm(F.embedding(index.long(), table), None, weights[0], torch.float64)
        return u, *add_norm(x, stream, weights[1], torch.float64)

    given = table, x.to(dtype), weights, upstream
    found, again = results(ours, *given), results(ours, *given)
    wide = [t if t is None else t.double() for t in upstream]
    truth = results(exact, table.double(), x.to(dtype).double(), [w.double() for w in weights], wide)
    bounds = {torch.float32: 2e-6, torch.bfloat16: 2**-7}[dtype]
    for number, (a, b, c) in enumerate(
        zip((*found[0], *found[1]), (*again[0], *again[1]), (*truth[0], *truth[1]), strict=True)
    ):
        if c is None:
            assert a is None or not a.any()
            continue
        assert torch.equal(a, b), "two runs differ"
        assert error(a, c) < bounds, (D, dtype, kind, first_alone, number, error(a, c))
    unused = torch.ones(BYTES, dtype=torch.bool, device=DEVICE)
    unused[index.long().flatten()] = False
    assert not found[1][0][unused].any() and found[1][0].dtype == torch.float32


for width in WIDTHS:
    for number, kind in enumerate(KINDS):
        for dtype in (
            (torch.float32, torch.bfloat16) if DEVICE == "cuda" else (torch.float32, torch.bfloat16)[number:][:1]
        ):
            check(width, dtype, kind, first_alone=kind == "text")

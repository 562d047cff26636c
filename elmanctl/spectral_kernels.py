"""Spectral normalisation as Triton kernels, of several weights of one shape at once: eight launches for all of them, and two for their gradients.

* W^T u travels as rows whose sum it is, added up in a fixed order; vectors are divided by their length where they are read.
* With w = W^T u, v = w / (|w| + eps) and sigma = u^T W v = |w|^2 / (|w| + eps): the last product of spectral.py, W v, is not formed.
* All sums are fp32 whatever the device's settings for products; the same numbers in every run.
* `together` is for a model's forward pass: it makes the weights of all layers before the first one, and `normalised` hands them out.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from elmanctl.spectral import EPS, ITERATIONS, SpectralNorm

TOGETHER = 32 * 2**20  # bytes of weights that are taken at once: the L2 cache keeps them from one product to the next
TALL, DEEP = 64, 512  # rows of a tile of `spectral_columns`, and that a program of it adds up
SHORT, LONG = 16, 256  # rows of a program of `spectral_rows`, columns of its tile
MOST = 64  # weights that are taken at once: with three pointers each, a launch's arguments are 1.5 KB of the 4 KB that it may have
COLUMNS = 64
FLAT, SHARE, PROGRAMS = 4096, 4, 128

_made: dict[tuple[SpectralNorm, torch.dtype], Tensor] = {}


@triton.jit
def chosen(pointers, which, COUNT: tl.constexpr):
    """Return one of several pointers."""
    found = pointers[0]
    for i in tl.static_range(1, COUNT):
        found = tl.where(which == i, pointers[i], found)
    return found


@triton.jit
def tile_of(W, row, at, end, columns):
    """Return W[row, at] for rows below `end`, zeros elsewhere."""
    mask = (row < end)[:, None] & (at < columns)[None, :]
    return tl.load(W + row[:, None] * columns + at[None, :], mask=mask, other=0.0)


@triton.jit
def spectral_columns(Ws, us, former, parts, kept, rows, columns, eps, COUNT: tl.constexpr, UNIT: tl.constexpr, WIDE: tl.constexpr,
                     TALL: tl.constexpr, DEEP: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """parts[program 1] = W^T u over DEEP rows; kept = u: that of `us`, or where not UNIT `former` divided by its length."""
    which = tl.program_id(2)
    W, length = chosen(Ws, which, COUNT), 1.0
    row = tl.program_id(1) * DEEP + tl.arange(0, TALL)
    at = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    end = tl.minimum(rows, (tl.program_id(1) + 1) * DEEP)
    tile = tile_of(W, row, at, end, columns)
    if UNIT:
        u = chosen(us, which, COUNT)
    else:
        u = former + which * rows
        whole = tl.load(u + tl.arange(0, WIDE), mask=tl.arange(0, WIDE) < rows, other=0.0)
        length = tl.sqrt(tl.sum(whole * whole, 0)) + eps
    value = tl.load(u + row, mask=row < end, other=0.0) / length
    total = tl.zeros([TALL, COLUMNS], tl.float32)
    for _ in range(0, DEEP, TALL):  # the next tile is under way while one is multiplied
        next_tile = tile_of(W, row + TALL, at, end, columns)
        next_value = tl.load(u + row + TALL, mask=row + TALL < end, other=0.0) / length
        if tl.program_id(0) == 0:
            tl.store(kept + which * rows + row, value, mask=row < end)
        total += tile * value[:, None]
        row, tile, value = row + TALL, next_tile, next_value
    place = (which * tl.num_programs(1) + tl.program_id(1)) * columns + at
    tl.store(parts + place, tl.sum(total, 0), mask=at < columns)


@triton.jit
def sum_of_parts(parts, which, at, columns, PARTS: tl.constexpr):
    """Return some columns of W^T u."""
    value = tl.zeros(at.shape, tl.float32)
    for part in tl.static_range(PARTS):
        value += tl.load(parts + (which * PARTS + part) * columns + at, mask=at < columns, other=0.0)
    return value


@triton.jit
def spectral_rows(Ws, parts, Wv, rows, columns, eps, COUNT: tl.constexpr, PARTS: tl.constexpr, SHORT: tl.constexpr,
                  LONG: tl.constexpr):  # fmt: skip
    """Wv = W v for SHORT rows a program, v the sum of the parts divided by its length."""
    which = tl.program_id(1)
    W = chosen(Ws, which, COUNT)
    row = tl.program_id(0) * SHORT + tl.arange(0, SHORT)
    at = tl.arange(0, LONG)
    tile, value = tile_of(W, row, at, rows, columns), sum_of_parts(parts, which, at, columns, PARTS)
    total = tl.zeros([SHORT, LONG], tl.float32)
    square = tl.zeros([LONG], tl.float32)
    for _ in range(0, columns, LONG):
        at += LONG
        next_tile, next_value = tile_of(W, row, at, rows, columns), sum_of_parts(parts, which, at, columns, PARTS)
        square += value * value
        total += tile * value[None, :]
        tile, value = next_tile, next_value
    size = tl.sqrt(tl.sum(square, 0)) + eps
    tl.store(Wv + which * rows + row, tl.sum(total, 1) / size, mask=row < rows)


@triton.jit
def spectral_scale(Ws, outs, buffers, u, parts, v, length, sigma, rows, columns, rho, eps, COUNT: tl.constexpr, KEEP: tl.constexpr,
                   WIDE: tl.constexpr, PARTS: tl.constexpr, LONG: tl.constexpr, FLAT: tl.constexpr, SHARE: tl.constexpr):  # fmt: skip
    """v = the sum of the parts, length = |v| + eps, sigma = |v|^2 / length, out = rho / (sigma + eps) W; buffer = u if KEEP."""
    which, first = tl.program_id(1), tl.program_id(0) == 0
    square = tl.zeros([LONG], tl.float32)
    for start in range(0, columns, LONG):
        at = start + tl.arange(0, LONG)
        value = sum_of_parts(parts, which, at, columns, PARTS)
        if first:
            tl.store(v + which * columns + at, value, mask=at < columns)
        square += value * value
    whole = tl.sum(square, 0)
    size = tl.sqrt(whole) + eps
    found = whole / size
    if first:
        tl.store(length + which, size)
        tl.store(sigma + which, found)
        if KEEP:
            at = tl.arange(0, WIDE)
            value = tl.load(u + which * rows + at, mask=at < rows, other=0.0)
            tl.store(chosen(buffers, which, COUNT) + at, value, mask=at < rows)
    W, out, scale = chosen(Ws, which, COUNT), chosen(outs, which, COUNT), rho / (found + eps)
    for step in tl.static_range(SHARE):
        flat = (tl.program_id(0) * SHARE + step) * FLAT + tl.arange(0, FLAT)
        mask = flat < rows * columns
        tl.store(out + flat, tl.load(W + flat, mask=mask, other=0.0) * scale, mask=mask)


@triton.jit
def spectral_dot(Gs, Ws, dots, count, COUNT: tl.constexpr, FLAT: tl.constexpr):
    """dots[program] = sum of G W over its share."""
    which = tl.program_id(1)
    G, W = chosen(Gs, which, COUNT), chosen(Ws, which, COUNT)
    total = tl.zeros([FLAT], tl.float32)
    for start in range(tl.program_id(0) * FLAT, count, tl.num_programs(0) * FLAT):
        flat = start + tl.arange(0, FLAT)
        mask = flat < count
        total += tl.load(G + flat, mask=mask, other=0.0).to(tl.float32) * tl.load(W + flat, mask=mask, other=0.0)
    tl.store(dots + which * tl.num_programs(0) + tl.program_id(0), tl.sum(total, 0))


@triton.jit
def spectral_gradient(Gs, dWs, u, v, length, sigma, dots, rows, columns, rho, eps, COUNT: tl.constexpr, PROGRAMS: tl.constexpr,
                      ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """dW = s (G - <G, W> / (sigma + eps) u v^T / length), s = rho / (sigma + eps), without the second term where sigma is 0."""
    which = tl.program_id(2)
    G, dW = chosen(Gs, which, COUNT), chosen(dWs, which, COUNT)
    found = tl.load(sigma + which)
    both = tl.sum(tl.load(dots + which * PROGRAMS + tl.arange(0, PROGRAMS)), 0) / (found + eps)
    both = tl.where(found > 0, both, 0.0) / tl.load(length + which)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = (row < rows)[:, None] & (at < columns)[None, :]
    place = row[:, None] * columns + at[None, :]
    left = tl.load(u + which * rows + row, mask=row < rows, other=0.0)
    right = tl.load(v + which * columns + at, mask=at < columns, other=0.0)
    value = tl.load(G + place, mask=mask, other=0.0).to(tl.float32) - both * (left[:, None] * right[None, :])
    tl.store(dW + place, value * (rho / (found + eps)), mask=mask)


class SpectralFunction(torch.autograd.Function):
    """SpectralNorm.forward of fp32 weights [rows, columns] with their buffers u on a GPU, in the dtype that their reader wants."""

    @staticmethod
    def forward(ctx, buffers: Sequence[Tensor], rho: float, iterations: int, dtype: torch.dtype, *Ws: Tensor):
        Ws, buffers, count = tuple(W.contiguous() for W in Ws), tuple(buffers), len(Ws)
        (rows, columns), like = Ws[0].shape, Ws[0]
        wide, parts = triton.next_power_of_2(rows), triton.cdiv(rows, DEEP)
        u, Wv, v, w_parts = (
            torch.empty(count, n, dtype=torch.float32, device=like.device)
            for n in (rows, rows, columns, parts * columns)
        )
        length, sigma = torch.empty(2, count, dtype=torch.float32, device=like.device)
        for number in range(iterations + 1):
            if number:
                spectral_rows[(triton.cdiv(rows, SHORT), count)](
                    Ws, w_parts, Wv, rows, columns, EPS, COUNT=count, PARTS=parts, SHORT=SHORT, LONG=LONG
                )
            spectral_columns[(triton.cdiv(columns, COLUMNS), parts, count)](
                Ws, buffers, Wv, w_parts, u, rows, columns, EPS,
                COUNT=count, UNIT=number == 0, WIDE=wide, TALL=TALL, DEEP=DEEP, COLUMNS=COLUMNS,
            )  # fmt: skip
        results = tuple(torch.empty(W.shape, dtype=dtype, device=W.device) for W in Ws)
        spectral_scale[(triton.cdiv(rows * columns, FLAT * SHARE), count)](
            Ws, results, buffers, u, w_parts, v, length, sigma, rows, columns, rho, EPS,
            COUNT=count, KEEP=iterations > 0, WIDE=wide, PARTS=parts, LONG=LONG, FLAT=FLAT, SHARE=SHARE,
        )  # fmt: skip
        ctx.save_for_backward(u, v, length, sigma, *Ws)
        ctx.rho = rho
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx, *Gs: Tensor):
        u, v, length, sigma, *Ws = ctx.saved_tensors
        (rows, columns), count = Ws[0].shape, len(Ws)
        Gs, Ws, dWs = tuple(G.contiguous() for G in Gs), tuple(Ws), tuple(torch.empty_like(W) for W in Ws)
        dots = torch.empty(count, PROGRAMS, dtype=torch.float32, device=u.device)
        spectral_dot[(PROGRAMS, count)](Gs, Ws, dots, rows * columns, COUNT=count, FLAT=FLAT)
        spectral_gradient[(triton.cdiv(rows, TALL), triton.cdiv(columns, COLUMNS), count)](
            Gs, dWs, u, v, length, sigma, dots, rows, columns, ctx.rho, EPS,
            COUNT=count, PROGRAMS=PROGRAMS, ROWS=TALL, COLUMNS=COLUMNS,
        )  # fmt: skip
        return None, None, None, None, *dWs


def _apply(pairs: Sequence[tuple[SpectralNorm, Tensor]], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Normalise weights whose norms have one rho and one mode."""
    norm = pairs[0][0]
    iterations = ITERATIONS if norm.training else 0
    return SpectralFunction.apply([n.u for n, _ in pairs], norm.rho, iterations, dtype, *(W for _, W in pairs))


def groups(pairs: Sequence[tuple[SpectralNorm, Tensor]]) -> list[list[tuple[SpectralNorm, Tensor]]]:
    """Divide weights into those that are taken at once: of one shape, rho and mode, at most MOST, and no more than TOGETHER bytes unless it is one."""
    found: dict[tuple, list[list[tuple[SpectralNorm, Tensor]]]] = {}
    for norm, W in pairs:
        lists = found.setdefault((W.shape, norm.rho, norm.training), [[]])
        if len(lists[-1]) >= max(1, min(MOST, TOGETHER // W.nbytes)):
            lists.append([])
        lists[-1].append((norm, W))
    return [group for lists in found.values() for group in lists]


@contextlib.contextmanager
def together(pairs: Sequence[tuple[SpectralNorm, Tensor]], dtype: torch.dtype) -> Iterator[None]:
    """Normalise the weights [rows, columns] that a forward pass inside will ask `normalised` for, in fp32, once each."""
    try:
        for group in groups(pairs):
            _made.update(zip(((norm, dtype) for norm, _ in group), _apply(group, dtype), strict=True))
        yield
    finally:
        _made.clear()


def normalised(norm: SpectralNorm, W: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the normalised weight in `dtype`; a training step improves the norm's u first."""
    made = _made.pop((norm, dtype), None)
    return _apply([(norm, W)], dtype)[0] if made is None else made

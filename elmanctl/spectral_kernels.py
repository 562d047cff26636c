"""Spectral normalisation as Triton kernels: what spectral.py computes with some forty launches a weight, in nine, and two for its gradient.

* W^T u travels as rows whose sum it is, added up in a fixed order; vectors are divided by their length where they are read.
* All sums are fp32 whatever the device's settings for products; the same numbers in every run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from elmanctl.spectral import EPS, ITERATIONS, SpectralNorm

TALL, DEEP = 64, 256  # rows of a tile of `spectral_columns`, and that a program of it adds up
SHORT, LONG = 8, 256  # rows of a program of `spectral_rows`, columns of its tile
COLUMNS = 64
FLAT, PROGRAMS = 4096, 256


@triton.jit
def spectral_columns(W, u, out, kept, rows, columns, eps, UNIT: tl.constexpr, WIDE: tl.constexpr, TALL: tl.constexpr,
               DEEP: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """out[program 1] = W^T u over DEEP rows, u divided by its length unless UNIT; kept = that u."""
    length = 1.0
    if not UNIT:
        whole = tl.load(u + tl.arange(0, WIDE), mask=tl.arange(0, WIDE) < rows, other=0.0)
        length = tl.sqrt(tl.sum(whole * whole, 0)) + eps
    at = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, DEEP, TALL):
        row = tl.program_id(1) * DEEP + start + tl.arange(0, TALL)
        mask = row < rows
        value = tl.load(u + row, mask=mask, other=0.0) / length
        if tl.program_id(0) == 0:
            tl.store(kept + row, value, mask=mask)
        tile = tl.load(
            W + row[:, None] * columns + at[None, :], mask=mask[:, None] & (at < columns)[None, :], other=0.0
        )
        total += tl.sum(tile * value[:, None], 0)
    tl.store(out + tl.program_id(1) * columns + at, total, mask=at < columns)


@triton.jit
def spectral_rows(
    W, v, out, kept, length, rows, columns, parts, eps, PARTS: tl.constexpr, SHORT: tl.constexpr, LONG: tl.constexpr
):
    """out = W v for SHORT rows a program, v the sum of `parts` rows divided by its length; kept = that sum, length = its length."""
    row = tl.program_id(0) * SHORT + tl.arange(0, SHORT)
    part = tl.arange(0, PARTS)
    total = tl.zeros([SHORT], tl.float32)
    square = tl.zeros([LONG], tl.float32)
    for start in range(0, columns, LONG):
        at = start + tl.arange(0, LONG)
        mask = at < columns
        tile = tl.load(W + row[:, None] * columns + at[None, :], mask=(row < rows)[:, None] & mask[None, :], other=0.0)
        several = tl.load(
            v + part[:, None] * columns + at[None, :], mask=(part < parts)[:, None] & mask[None, :], other=0.0
        )
        value = tl.sum(several, 0)
        if tl.program_id(0) == 0:
            tl.store(kept + at, value, mask=mask)
        square += value * value
        total += tl.sum(tile * value[None, :], 1)
    size = tl.sqrt(tl.sum(square, 0)) + eps
    if tl.program_id(0) == 0:
        tl.store(length, size)
    tl.store(out + row, total / size, mask=row < rows)


@triton.jit
def spectral_scale(W, u, Wv, sigma, out, rows, count, rho, eps, WIDE: tl.constexpr, FLAT: tl.constexpr):
    """sigma = u (W v), out = rho / (|sigma| + eps) W."""
    at = tl.arange(0, WIDE)
    mask = at < rows
    found = tl.sum(tl.load(u + at, mask=mask, other=0.0) * tl.load(Wv + at, mask=mask, other=0.0), 0)
    if tl.program_id(0) == 0:
        tl.store(sigma, found)
    flat = tl.program_id(0) * FLAT + tl.arange(0, FLAT)
    value = tl.load(W + flat, mask=flat < count, other=0.0) * (rho / (tl.abs(found) + eps))
    tl.store(out + flat, value, mask=flat < count)


@triton.jit
def spectral_dot(G, W, out, count, FLAT: tl.constexpr):
    """out[program] = sum of G W over its share."""
    total = tl.zeros([FLAT], tl.float32)
    for start in range(tl.program_id(0) * FLAT, count, tl.num_programs(0) * FLAT):
        flat = start + tl.arange(0, FLAT)
        mask = flat < count
        total += tl.load(G + flat, mask=mask, other=0.0).to(tl.float32) * tl.load(W + flat, mask=mask, other=0.0)
    tl.store(out + tl.program_id(0), tl.sum(total, 0))


@triton.jit
def spectral_gradient(G, u, v, length, sigma, dots, dW, rows, columns, rho, eps, PROGRAMS: tl.constexpr, ROWS: tl.constexpr,
             COLUMNS: tl.constexpr):  # fmt: skip
    """dW = s (G - <G, W> / (|sigma| + eps) sign(sigma) u v^T / length), s = rho / (|sigma| + eps)."""
    found = tl.load(sigma)
    size = tl.abs(found) + eps
    both = tl.sum(tl.load(dots + tl.arange(0, PROGRAMS)), 0) / size
    both = tl.where(found < 0, -both, tl.where(found > 0, both, 0.0)) / tl.load(length)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = (row < rows)[:, None] & (at < columns)[None, :]
    place = row[:, None] * columns + at[None, :]
    outer = (
        tl.load(u + row, mask=row < rows, other=0.0)[:, None] * tl.load(v + at, mask=at < columns, other=0.0)[None, :]
    )
    value = tl.load(G + place, mask=mask, other=0.0).to(tl.float32) - both * outer
    tl.store(dW + place, value * (rho / size), mask=mask)


class SpectralFunction(torch.autograd.Function):
    """SpectralNorm.forward of an fp32 weight [rows, columns] on a GPU, in the dtype that its reader wants."""

    @staticmethod
    def forward(ctx, W: Tensor, buffer: Tensor, rho: float, iterations: int, dtype: torch.dtype):
        W = W.contiguous()
        rows, columns = W.shape
        wide, parts = triton.next_power_of_2(rows), triton.cdiv(rows, DEEP)
        u, Wv, v = (torch.empty(n, dtype=torch.float32, device=W.device) for n in (rows, rows, columns))
        v_parts = torch.empty(parts, columns, dtype=torch.float32, device=W.device)
        length, sigma = torch.empty(2, dtype=torch.float32, device=W.device)
        given, unit = buffer, True
        for _ in range(iterations + 1):
            spectral_columns[(triton.cdiv(columns, COLUMNS), parts)](
                W, given, v_parts, u, rows, columns, EPS, UNIT=unit, WIDE=wide, TALL=TALL, DEEP=DEEP, COLUMNS=COLUMNS
            )
            given, unit = Wv, False
            spectral_rows[(triton.cdiv(rows, SHORT),)](
                W, v_parts, Wv, v, length, rows, columns, parts, EPS,
                PARTS=triton.next_power_of_2(parts), SHORT=SHORT, LONG=LONG,
            )  # fmt: skip
        if iterations:
            buffer.copy_(u)
        result = torch.empty(W.shape, dtype=dtype, device=W.device)
        spectral_scale[(triton.cdiv(W.numel(), FLAT),)](
            W, u, Wv, sigma, result, rows, W.numel(), rho, EPS, WIDE=wide, FLAT=FLAT
        )
        ctx.save_for_backward(W, u, v, length, sigma)
        ctx.rho = rho
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, G: Tensor):
        W, u, v, length, sigma = ctx.saved_tensors
        rows, columns = W.shape
        G, dots, dW = G.contiguous(), torch.empty(PROGRAMS, dtype=torch.float32, device=W.device), torch.empty_like(W)
        spectral_dot[(PROGRAMS,)](G, W, dots, W.numel(), FLAT=FLAT)
        spectral_gradient[(triton.cdiv(rows, TALL), triton.cdiv(columns, COLUMNS))](
            G, u, v, length, sigma, dots, dW, rows, columns, ctx.rho, EPS, PROGRAMS=PROGRAMS, ROWS=TALL, COLUMNS=COLUMNS
        )
        return dW, None, None, None, None


def normalised(norm: SpectralNorm, W: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the normalised weight in `dtype`; a training step improves the norm's u first."""
    return SpectralFunction.apply(W, norm.u, norm.rho, ITERATIONS if norm.training else 0, dtype)

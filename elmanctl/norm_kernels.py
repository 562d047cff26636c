"""Residual add and RMSNorm as two Triton kernels, with what one pass over memory can do done in one pass.

* Forward reads x and the stream r, writes r' and u: 12 bytes an element where x and u are bf16.
* Backward reads the gradients of u and r' and u itself, writes the gradients of r and x: 14 bytes. It needs no r': with c = mean(du u),
  dr = dr' + rstd (weight du - x^ c), where x^ = u / weight. So r' lives no longer than until the next layer's norm.
* x^ carries the rounding of u. Where a weight is exactly 0, u has lost x^: the terms with x^ are left out for that column.
* The weight's gradient is summed in fp32: each program over its rows, torch over the programs; the same numbers in every run.
* A row lies in registers in two parts, of powers of two as Triton asks (norms.division): 4736 = 4096 + 640 of 1024, in place of 8192.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from elmanctl.norms import division, programs_of


@triton.jit
def _part(x, r, s, start, end, row, D, HAS_R: tl.constexpr, WIDTH: tl.constexpr):
    """Return columns, mask and values of one part of the new stream, and write it."""
    columns = start + tl.arange(0, WIDTH)
    mask = columns < end
    at = row * D + columns
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    if HAS_R:
        value += tl.load(r + at, mask=mask, other=0.0)
    tl.store(s + at, value, mask=mask)
    return columns, mask, value


@triton.jit
def add_norm_forward(x, r, weight, u, s, rstd, D, eps, HAS_R: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr):
    """One row a program: s = x + r, u = weight s rstd."""
    row = tl.program_id(0).to(tl.int64)
    columns, mask, value = _part(x, r, s, 0, D, row, D, HAS_R, FIRST)
    total = tl.sum(value * value, 0)
    if SECOND:
        columns2, mask2, value2 = _part(x, r, s, FIRST, D, row, D, HAS_R, SECOND)
        total += tl.sum(value2 * value2, 0)
    scale = 1 / tl.sqrt(total / D + eps)
    tl.store(rstd + row, scale)
    tl.store(u + row * D + columns, value * scale * tl.load(weight + columns, mask=mask), mask=mask)
    if SECOND:
        tl.store(u + row * D + columns2, value2 * scale * tl.load(weight + columns2, mask=mask2), mask=mask2)


@triton.jit
def _products(du, u, columns, mask, row, D):
    """Return du and u of one part of a row."""
    at = row * D + columns
    return tl.load(du + at, mask=mask, other=0.0).to(tl.float32), tl.load(u + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _gradients(
    g, value, c, scale, weight, ds, dr, dx, columns, mask, row, D, HAS_DS: tl.constexpr, HAS_R: tl.constexpr
):
    """Write the gradients of one part of a row."""
    at = row * D + columns
    w = tl.load(weight + columns, mask=mask, other=1.0)
    normal = tl.where(w == 0, 0.0, value / tl.where(w == 0, 1.0, w))
    d = scale * (w * g - normal * c)
    if HAS_DS:
        d += tl.load(ds + at, mask=mask, other=0.0)
    if HAS_R:
        tl.store(dr + at, d, mask=mask)
    tl.store(dx + at, d, mask=mask)


@triton.jit
def add_norm_backward(
    du, ds, u, rstd, weight, dr, dx, dw, rows, D,
    HAS_DS: tl.constexpr, HAS_R: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
):  # fmt: skip
    """Rows program_id, program_id + programs, ...; dw[program] is the sum of du u over them."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    columns = tl.arange(0, FIRST)
    mask = columns < D
    sums = tl.zeros([FIRST], tl.float32)
    if SECOND:
        columns2 = FIRST + tl.arange(0, SECOND)
        mask2 = columns2 < D
        sums2 = tl.zeros([SECOND], tl.float32)
    for row in range(program.to(tl.int64), rows, programs):
        g, value = _products(du, u, columns, mask, row, D)
        c = tl.sum(g * value, 0)
        sums += g * value
        if SECOND:
            g2, value2 = _products(du, u, columns2, mask2, row, D)
            c += tl.sum(g2 * value2, 0)
            sums2 += g2 * value2
        c /= D
        scale = tl.load(rstd + row)
        _gradients(g, value, c, scale, weight, ds, dr, dx, columns, mask, row, D, HAS_DS, HAS_R)
        if SECOND:
            _gradients(g2, value2, c, scale, weight, ds, dr, dx, columns2, mask2, row, D, HAS_DS, HAS_R)
    tl.store(dw + program.to(tl.int64) * D + columns, sums, mask=mask)
    if SECOND:
        tl.store(dw + program.to(tl.int64) * D + columns2, sums2, mask=mask2)


@triton.jit
def weight_gradient(partial, weight, dw, programs, D, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """dw = sum over programs of partial / weight, for some columns a program."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    mask = columns < D
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, programs, ROWS):
        rows = start + tl.arange(0, ROWS)
        total += tl.load(
            partial + rows[:, None] * D + columns[None, :], mask=(rows < programs)[:, None] & mask[None, :], other=0.0
        )
    w = tl.load(weight + columns, mask=mask, other=1.0)
    tl.store(dw + columns, tl.where(w == 0, 0.0, tl.sum(total, 0) / tl.where(w == 0, 1.0, w)), mask=mask)


class AddNormFunction(torch.autograd.Function):
    """add_norm of norms.py on a GPU."""

    @staticmethod
    def forward(ctx, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, out_dtype: torch.dtype):
        ctx.set_materialize_grads(False)
        D = x.shape[-1]
        x = x.contiguous()
        residual = residual if residual is None else residual.contiguous()
        u = torch.empty(x.shape, dtype=out_dtype, device=x.device)
        stream = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        rows = x.numel() // D
        rstd = torch.empty(rows, dtype=torch.float32, device=x.device)
        given = x if residual is None else residual
        add_norm_forward[(rows,)](x, given, weight, u, stream, rstd, D, eps, HAS_R=residual is not None, **division(D))
        ctx.save_for_backward(u, rstd, weight)
        ctx.has_residual, ctx.dtype = residual is not None, x.dtype
        return u, stream

    @staticmethod
    @once_differentiable
    def backward(ctx, du: Tensor | None, dstream: Tensor | None):
        u, rstd, weight = ctx.saved_tensors
        D, rows = u.shape[-1], rstd.numel()
        du = torch.zeros_like(u) if du is None else du.contiguous()
        dstream = None if dstream is None else dstream.contiguous()
        dx = torch.empty(u.shape, dtype=ctx.dtype, device=u.device)
        dr = torch.empty(u.shape, dtype=torch.float32, device=u.device) if ctx.has_residual else None
        programs = programs_of(D, rows, multiprocessors(u.device))
        partial = torch.empty(programs, D, dtype=torch.float32, device=u.device)
        add_norm_backward[(programs,)](
            du, du if dstream is None else dstream, u, rstd, weight, dx if dr is None else dr, dx, partial, rows, D,
            HAS_DS=dstream is not None, HAS_R=dr is not None, **division(D),
        )  # fmt: skip
        dw = torch.empty_like(weight)
        weight_gradient[(-(-D // 32),)](partial, weight, dw, programs, D, ROWS=64, COLUMNS=32)
        return dx, dr, dw, None, None


def multiprocessors(device: torch.device) -> int:
    """Return how many multiprocessors a GPU has; 2 for the interpreter on a CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2

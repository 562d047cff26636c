"""Residual add and RMSNorm as Triton kernels, one a direction and a small one for the weight's gradient, each a single pass over memory.

* Forward reads x and the stream r, writes r' and u: 12 bytes an element where x and u are bf16. The last norm of a model, whose r' nobody
  reads, writes none: 8 bytes.
* Backward reads the gradients of u and r' and u itself, writes the gradients of r and x: 14 bytes. It needs no r': with c = mean(du u),
  dr = dr' + rstd (weight du - x^ c), where x^ = u / weight. So r' lives no longer than until the next layer's norm.
* x^ carries the rounding of u. Where a weight is exactly 0, u has lost x^: the terms with x^ are left out for that column.
* The weight's gradient is summed in fp32: each program over its rows, `weight_gradient` over the programs; the same numbers in every run.
* A row lies in registers as several chunks in which a thread has four neighbours (norms.division): 8 and 16 bytes a load or store, the same
  threads for both dtypes, and one sum across warps a row.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from elmanctl.norms import backward_division, division, programs_of

ROWS, COLUMNS = 256, 16  # of a tile of weight_gradient: 16 KB in flight, and a program for each 64 bytes of a row


@triton.jit
def add_norm_forward(
    x, r, index, weight, u, s, rstd, D, eps,
    X_ROWS: tl.constexpr, HAS_R: tl.constexpr, R_ROWS: tl.constexpr, KEEP: tl.constexpr, CHUNKS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One row a program: s = x + r, u = weight s rstd. X_ROWS, R_ROWS: row i of x, of r is row index[i] of the tensor that is given."""
    row = tl.program_id(0).to(tl.int64)
    x_row, r_row, lane = row, row, tl.arange(0, WIDTH)
    if X_ROWS:
        x_row = tl.load(index + row).to(tl.int64)
    if R_ROWS:
        r_row = tl.load(index + row).to(tl.int64)
    values = ()
    for k in tl.static_range(CHUNKS):
        at = k * WIDTH + lane
        value = tl.load(x + x_row * D + at, mask=at < D, other=0.0).to(tl.float32)
        if HAS_R:
            value += tl.load(r + r_row * D + at, mask=at < D, other=0.0)
        values += (value,)
    square = tl.zeros([WIDTH], tl.float32)
    for k in tl.static_range(CHUNKS):
        at = k * WIDTH + lane
        if KEEP:
            tl.store(s + row * D + at, values[k], mask=at < D)
        square += values[k] * values[k]
    scale = 1 / tl.sqrt(tl.sum(square, 0) / D + eps)
    tl.store(rstd + row, scale)
    for k in tl.static_range(CHUNKS):
        at = k * WIDTH + lane
        w = tl.load(weight + at, mask=at < D, other=0.0)
        tl.store(u + row * D + at, values[k] * scale * w, mask=at < D)


@triton.jit
def read_row(du, u, ds, rstd, row, there, D, HAS_DS: tl.constexpr, CHUNKS: tl.constexpr, WIDTH: tl.constexpr):
    """Return a row of du, u and, where HAS_DS, ds, in chunks, as they are stored, and its rstd; zeros unless `there`."""
    gs, us, ss = (), (), ()
    for k in tl.static_range(CHUNKS):
        at = k * WIDTH + tl.arange(0, WIDTH)
        mask = (at < D) & there
        gs += (tl.load(du + row * D + at, mask=mask, other=0.0),)
        us += (tl.load(u + row * D + at, mask=mask, other=0.0),)
        if HAS_DS:
            ss += (tl.load(ds + row * D + at, mask=mask, other=0.0),)
    return gs, us, ss, tl.load(rstd + row, mask=there, other=0.0)


@triton.jit
def read_weight(weight, D, CHUNKS: tl.constexpr, WIDTH: tl.constexpr):
    """Return the weight in chunks, and 1 / weight, 0 where it is 0. A load inside a loop would wait for the next row's."""
    ws, inverses = (), ()
    for k in tl.static_range(CHUNKS):
        at = k * WIDTH + tl.arange(0, WIDTH)
        w = tl.load(weight + at, mask=at < D, other=0.0)
        ws += (w,)
        inverses += (tl.where(w == 0, 0.0, 1 / tl.where(w == 0, 1.0, w)),)
    return ws, inverses


@triton.jit
def zeros(CHUNKS: tl.constexpr, WIDTH: tl.constexpr):
    """Return a row of sums."""
    new = ()
    for _ in tl.static_range(CHUNKS):
        new += (tl.zeros([WIDTH], tl.float32),)
    return new


@triton.jit
def add_products(sums, gs, us, CHUNKS: tl.constexpr, WIDTH: tl.constexpr):
    """Return sums + du u of one row, and the sum of du u over the row."""
    total, new = tl.zeros([WIDTH], tl.float32), ()
    for k in tl.static_range(CHUNKS):
        product = gs[k].to(tl.float32) * us[k].to(tl.float32)
        total += product
        new += (sums[k] + product,)
    return new, tl.sum(total, 0)


@triton.jit
def add_norm_backward(
    du, ds, u, rstd, weight, dr, dx, dw, rows, D,
    HAS_DS: tl.constexpr, HAS_R: tl.constexpr, AHEAD: tl.constexpr, CHUNKS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Rows program_id, program_id + programs, ...; dw[program] is the sum of du u over them. AHEAD: the next row is read before this one is done."""
    program, programs = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    lane, sums = tl.arange(0, WIDTH), zeros(CHUNKS, WIDTH)
    ws, inverses = read_weight(weight, D, CHUNKS, WIDTH)
    if AHEAD:
        gs, us, ss, scale = read_row(du, u, ds, rstd, program, program < rows, D, HAS_DS, CHUNKS, WIDTH)
    for row in range(program, rows, programs):
        if AHEAD:
            next_row = read_row(du, u, ds, rstd, row + programs, row + programs < rows, D, HAS_DS, CHUNKS, WIDTH)
        else:
            gs, us, ss, scale = read_row(du, u, ds, rstd, row, row < rows, D, HAS_DS, CHUNKS, WIDTH)
        sums, total = add_products(sums, gs, us, CHUNKS, WIDTH)
        for k in tl.static_range(CHUNKS):
            at = k * WIDTH + lane
            d = scale * (ws[k] * gs[k].to(tl.float32) - us[k].to(tl.float32) * inverses[k] * (total / D))
            if HAS_DS:
                d += ss[k]
            if HAS_R:
                tl.store(dr + row * D + at, d, mask=at < D)
            tl.store(dx + row * D + at, d, mask=at < D)
        if AHEAD:
            gs, us, ss, scale = next_row
    for k in tl.static_range(CHUNKS):
        at = k * WIDTH + lane
        tl.store(dw + program * D + at, sums[k], mask=at < D)


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
    """add_norm of norms.py on a GPU; without `keep` there is no stream.

    Where `table` and `index` are given, the residual is F.embedding(index, table): of the argument `residual` only its gradient is used.
    """

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        eps: float,
        out_dtype: torch.dtype,
        keep: bool = True,
        table: Tensor | None = None,
        index: Tensor | None = None,
    ):
        ctx.set_materialize_grads(False)
        D = x.shape[-1]
        x = x.contiguous()
        given = x if residual is None else table if table is not None else residual.contiguous()
        u = torch.empty(x.shape, dtype=out_dtype, device=x.device)
        stream = torch.empty(x.shape, dtype=torch.float32, device=x.device) if keep else None
        rows = x.numel() // D
        rstd = torch.empty(rows, dtype=torch.float32, device=x.device)
        add_norm_forward[(rows,)](
            x, given, x if index is None else index, weight, u, stream if keep else u, rstd, D, eps,
            X_ROWS=False, HAS_R=residual is not None, R_ROWS=table is not None, KEEP=keep, **division(D),
        )  # fmt: skip
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
            HAS_DS=dstream is not None, HAS_R=dr is not None, **backward_division(D),
        )  # fmt: skip
        return dx, dr, summed(partial, weight), None, None, None, None, None


def summed(partial: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of a norm's weight from its programs' sums, [programs, D]."""
    programs, D = partial.shape
    dw = torch.empty_like(weight)
    weight_gradient[(-(-D // COLUMNS),)](partial, weight, dw, programs, D, ROWS=ROWS, COLUMNS=COLUMNS)
    return dw


def multiprocessors(device: torch.device) -> int:
    """Return how many multiprocessors a GPU has; 2 for the interpreter on a CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2

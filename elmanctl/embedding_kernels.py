"""The embedding and the first norm as Triton kernels: u = norm(E[token]) without the tensor E[token], and E's gradient in the norm's backward pass.

* Forward reads bytes and writes u, 2 bytes an element. The stream is E[token] itself, which the second norm takes from E as well.
* Backward reads the gradients of u and of the stream and u, 8 bytes an element. It takes positions sorted by their byte, so that a program
  adds up equal bytes in registers and writes a sum where the byte changes: at most programs + 255 rows in all.
* Sums are fp32 in a fixed order, and there are no atomics: the same numbers in every run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from elmanctl.norm_kernels import add_norm_forward, add_products, multiprocessors, read_row, read_weight, summed, zeros
from elmanctl.norms import BYTES, backward_division, division, programs_of

BLOCK = 2048  # positions that a program of embedding_order looks at together
TALL, COLUMNS = 16, 128  # rows and columns of a tile of embedding_gradient


@triton.jit
def embedding_order(tokens, order, starts, count, BLOCK: tl.constexpr):
    """Program b: order[starts[b] ...] = 256 position + b for the positions of byte b, ascending; starts[b] positions have smaller bytes."""
    own = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    smaller = tl.zeros([BLOCK], tl.int32)
    for start in range(0, count, BLOCK):
        token = tl.load(tokens + start + lane, mask=start + lane < count, other=255).to(tl.int32)
        smaller += (token < own).to(tl.int32)
    base = tl.sum(smaller, 0)
    tl.store(starts + own, base)
    for start in range(0, count, BLOCK):
        position = start + lane
        token = tl.load(tokens + position, mask=position < count, other=0).to(tl.int32)
        mine = ((token == own) & (position < count)).to(tl.int32)
        place = base + tl.cumsum(mine, 0) - mine
        tl.store(order + place, position.to(tl.int64) * 256 + own, mask=mine > 0)
        base += tl.sum(mine, 0)


@triton.jit
def embedding_add_norm_backward(
    du, ds, u, rstd, weight, order, parts, dw, rows, share, D,
    HAS_DS: tl.constexpr, AHEAD: tl.constexpr, CHUNKS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Positions order[program share ...]; parts[program + byte] = sum of their gradients by byte, dw[program] = sum of du u."""
    program = tl.program_id(0).to(tl.int64)
    first = program * share
    last = tl.minimum(first + share, rows)
    lane, sums, found = tl.arange(0, WIDTH), zeros(CHUNKS, WIDTH), zeros(CHUNKS, WIDTH)
    code = tl.load(order + first)
    following = tl.load(order + first + 1, mask=first + 1 < last, other=0)
    former = code & 255
    ws, inverses = read_weight(weight, D, CHUNKS, WIDTH)
    if AHEAD:
        gs, us, ss, scale = read_row(du, u, ds, rstd, code >> 8, first < last, D, HAS_DS, CHUNKS, WIDTH)
    for place in range(first, last):
        after = tl.load(order + place + 2, mask=place + 2 < last, other=0)
        byte = code & 255
        if AHEAD:
            next_row = read_row(du, u, ds, rstd, following >> 8, place + 1 < last, D, HAS_DS, CHUNKS, WIDTH)
        else:
            gs, us, ss, scale = read_row(du, u, ds, rstd, code >> 8, place < last, D, HAS_DS, CHUNKS, WIDTH)
        sums, total = add_products(sums, gs, us, CHUNKS, WIDTH)
        new = ()
        for k in tl.static_range(CHUNKS):
            at = k * WIDTH + lane
            d = scale * (ws[k] * gs[k].to(tl.float32) - us[k].to(tl.float32) * inverses[k] * (total / D))
            if HAS_DS:
                d += ss[k]
            tl.store(parts + (program + former) * D + at, found[k], mask=(at < D) & (byte != former))
            new += (tl.where(byte == former, found[k], 0.0) + d,)
        found = new
        if AHEAD:
            gs, us, ss, scale = next_row
        former, code, following = byte, following, after
    for k in tl.static_range(CHUNKS):
        at = k * WIDTH + lane
        tl.store(parts + (program + former) * D + at, found[k], mask=at < D)
        tl.store(dw + program * D + at, sums[k], mask=at < D)


@triton.jit
def embedding_gradient(parts, starts, out, rows, share, D, TALL: tl.constexpr, COLUMNS: tl.constexpr):
    """out[byte] = sum of parts[program + byte] over the programs that met the byte."""
    byte = tl.program_id(0)
    at = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    begin = tl.load(starts + byte)
    end = tl.load(starts + byte + 1, mask=byte < 255, other=rows)
    first = begin // share
    past = tl.where(end > begin, (end + share - 1) // share, first)
    total = tl.zeros([TALL, COLUMNS], tl.float32)
    for start in range(first, past, TALL):
        program = start + tl.arange(0, TALL)
        place = (program + byte).to(tl.int64)[:, None] * D + at[None, :]
        total += tl.load(parts + place, mask=(program < past)[:, None] & (at < D)[None, :], other=0.0)
    tl.store(out + byte * D + at, tl.sum(total, 0), mask=at < D)


class EmbeddingNormFunction(torch.autograd.Function):
    """add_norm of norms.py, without a residual, of F.embedding(index, table): index [B, T] of bytes, table [256, D] in fp32.

    In place of the stream it returns a tensor of its shape without values, whose gradient is the stream's.
    """

    @staticmethod
    def forward(ctx, index: Tensor, table: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype):
        ctx.set_materialize_grads(False)
        D, rows = table.shape[-1], index.numel()
        table = table.contiguous()
        u = torch.empty(*index.shape, D, dtype=out_dtype, device=index.device)
        rstd = torch.empty(rows, dtype=torch.float32, device=index.device)
        add_norm_forward[(rows,)](
            table, table, index, weight, u, u, rstd, D, eps,
            X_ROWS=True, HAS_R=False, R_ROWS=False, KEEP=False, **division(D),
        )  # fmt: skip
        ctx.save_for_backward(index, u, rstd, weight)
        return u, rstd[:1].expand(u.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, du: Tensor | None, dstream: Tensor | None):
        index, u, rstd, weight = ctx.saved_tensors
        D, rows = u.shape[-1], rstd.numel()
        du = torch.zeros_like(u) if du is None else du.contiguous()
        dstream = None if dstream is None else dstream.contiguous()
        order = torch.empty(rows, dtype=torch.int64, device=u.device)
        starts = torch.empty(BYTES, dtype=torch.int32, device=u.device)
        embedding_order[(BYTES,)](index, order, starts, rows, BLOCK=BLOCK, num_warps=8)
        share = triton.cdiv(rows, programs_of(D, rows, multiprocessors(u.device)))
        programs = triton.cdiv(rows, share)
        partial = torch.empty(programs, D, dtype=torch.float32, device=u.device)
        parts = torch.empty(programs + BYTES - 1, D, dtype=torch.float32, device=u.device)
        embedding_add_norm_backward[(programs,)](
            du, du if dstream is None else dstream, u, rstd, weight, order, parts, partial, rows, share, D,
            HAS_DS=dstream is not None, **backward_division(D),
        )  # fmt: skip
        d_table = torch.empty(BYTES, D, dtype=torch.float32, device=u.device)
        embedding_gradient[(BYTES, triton.cdiv(D, COLUMNS))](
            parts, starts, d_table, rows, share, D, TALL=TALL, COLUMNS=COLUMNS
        )
        return None, d_table, summed(partial, weight), None, None

"""RMSNorm of each head and its gate as Triton kernels, one a direction, each a single pass over memory.

* Forward reads y and writes the result: 4 bytes an element in bf16, 6 with a gate. Backward reads y and the result's gradient and writes that of
  y: 6 bytes, 10 with a gate. Nothing is kept but what came in: the recurrence keeps y in any case.
* A head is narrow, so a program takes a tile of many; norm_kernels.py, with a program for each row, would launch one for each 64 bytes.
* The weight's gradient is summed in fp32: each program's over its tiles, then over the programs; the same numbers in every run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from elmanctl.norm_kernels import multiprocessors
from elmanctl.norms import EPS

GATES = {"silu": 1, "sigmoid": 2}
FORWARD, BACKWARD = 4096, 2048  # elements of a tile
WARPS = 4
PROGRAMS = 8  # of a multiprocessor in a backward pass: as many as run at once, since each leaves a partial sum


@triton.jit
def tile(start, rows, M: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr):
    """Return where the elements of heads start ... are, and which of them there are."""
    row, at = start + tl.arange(0, ROWS), tl.arange(0, WIDE)
    return row.to(tl.int64)[:, None] * M + at[None, :], (row < rows)[:, None] & (at < M)[None, :]


@triton.jit
def head_norm_forward(y, gate, weight, out, rows, eps, GATE: tl.constexpr, M: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """One tile a program."""
    at, mask = tile(tl.program_id(0) * ROWS, rows, M, WIDE, ROWS)
    value = tl.load(y + at, mask=mask, other=0.0).to(tl.float32)
    w = tl.load(weight + tl.arange(0, WIDE), mask=tl.arange(0, WIDE) < M, other=0.0).to(tl.float32)
    result = value * (1 / tl.sqrt(tl.sum(value * value, 1) / M + eps))[:, None] * w[None, :]
    if GATE:
        g = tl.load(gate + at, mask=mask, other=0.0).to(tl.float32)
        sigmoid = 1 / (1 + tl.exp(-g))
        result *= g * sigmoid if GATE == 1 else sigmoid
    tl.store(out + at, result, mask=mask)


@triton.jit
def head_norm_backward(
    d_out, y, gate, weight, dy, d_gate, parts, rows, eps,
    GATE: tl.constexpr, M: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Tiles program_id, program_id + programs, ...; parts[program] = gradient of the weight from them.

    With x^ = y rstd and d the gradient before the weight:  dy = rstd (d - x^ mean(d x^)).
    """
    columns = tl.arange(0, WIDE)
    w = tl.load(weight + columns, mask=columns < M, other=0.0).to(tl.float32)
    sums = tl.zeros([ROWS, WIDE], tl.float32)
    for start in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        at, mask = tile(start, rows, M, WIDE, ROWS)
        value = tl.load(y + at, mask=mask, other=0.0).to(tl.float32)
        d = tl.load(d_out + at, mask=mask, other=0.0).to(tl.float32)
        scale = 1 / tl.sqrt(tl.sum(value * value, 1) / M + eps)
        unit = value * scale[:, None]
        if GATE:
            g = tl.load(gate + at, mask=mask, other=0.0).to(tl.float32)
            sigmoid = 1 / (1 + tl.exp(-g))
            slope = sigmoid * (1 + g * (1 - sigmoid)) if GATE == 1 else sigmoid * (1 - sigmoid)
            tl.store(d_gate + at, d * unit * w[None, :] * slope, mask=mask)
            d *= g * sigmoid if GATE == 1 else sigmoid
        sums += d * unit
        d *= w[None, :]
        tl.store(dy + at, scale[:, None] * (d - unit * (tl.sum(d * unit, 1) / M)[:, None]), mask=mask)
    tl.store(parts + tl.program_id(0) * M + columns, tl.sum(sums, 0), mask=columns < M)


def division(M: int, elements: int) -> dict[str, int]:
    """Return how a tile of some elements holds heads of M."""
    wide = triton.next_power_of_2(M)
    return {"M": M, "WIDE": wide, "ROWS": max(1, elements // wide), "num_warps": WARPS}


class HeadNormFunction(torch.autograd.Function):
    """head_norm of head_norm.py on a GPU."""

    @staticmethod
    def forward(ctx, y: Tensor, weight: Tensor, gate: Tensor | None, activation: str, dtype: torch.dtype):
        y, gate, M = y.contiguous(), None if gate is None else gate.contiguous(), y.shape[-1]
        out, held = torch.empty(y.shape, dtype=dtype, device=y.device), division(M, FORWARD)
        rows, ctx.gate = y.numel() // M, 0 if gate is None else GATES[activation]
        head_norm_forward[(triton.cdiv(rows, held["ROWS"]),)](
            y, y if gate is None else gate, weight, out, rows, EPS, GATE=ctx.gate, **held
        )
        ctx.save_for_backward(y, weight, gate)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out: Tensor):
        (y, weight, gate), d_out = ctx.saved_tensors, d_out.contiguous()
        M, rows = y.shape[-1], y.numel() // y.shape[-1]
        held = division(M, BACKWARD)
        programs = min(triton.cdiv(rows, held["ROWS"]), PROGRAMS * multiprocessors(y.device))
        dy, d_gate = torch.empty_like(y), None if gate is None else torch.empty_like(gate)
        parts = torch.empty(programs, M, dtype=torch.float32, device=y.device)
        head_norm_backward[(programs,)](
            d_out, y, y if gate is None else gate, weight, dy, dy if gate is None else d_gate, parts, rows, EPS,
            GATE=ctx.gate, **held,
        )  # fmt: skip
        return dy, parts.sum(0).to(weight.dtype), d_gate, None, None

"""The causal depthwise convolution over time as Triton kernels, one a direction and a small one that adds up the weight's gradient.

* Forward reads u and writes s: 4 bytes an element in bf16. Backward reads u and the gradient of s, writes the gradient of u: 6 bytes.
* A program has some channels and BLOCK steps of a row of the batch. It walks over time with the last three steps in registers, so that an
  element is read once, and reads STEPS steps while it works on those before. Three steps more are read where another program's begin.
* Nothing is transposed or copied: channels are neighbours in memory, and batch and time have any strides.
* With SILU the sum is not kept: backward forms it again from u, which it reads in any case.
* Gradients of weight and bias are summed in fp32, each program's over its steps, then over the programs: the same numbers in every run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

# Channels of a program, four a thread: 8 or 16 bytes a load or store, the same threads for both dtypes.
WIDE, WARPS = 128, 1
FORWARD = {"BLOCK": 64, "STEPS": 4}
BACKWARD = {"BLOCK": 128, "STEPS": 4}  # its programs leave sums, which are read again: few and long
ROWS, COLUMNS = 256, 16  # of a tile of conv_weight_gradient
MINUS_LOG2E = tl.constexpr(-1.4426950408889634)


@triton.jit
def place(T, C, blocks, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Return a program's channels, which of them there are, its row of the batch, its first step, the steps from there on, and its number."""
    groups = tl.cdiv(C, WIDE)
    number = (tl.program_id(0) // groups).to(tl.int64)
    at = tl.program_id(0) % groups * WIDE + tl.arange(0, WIDE)
    first = number % blocks * BLOCK
    return at, at < C, number // blocks, first, (T - first).to(tl.int32), number


@triton.jit
def read_taps(weight, bias, at, there, HAS_BIAS: tl.constexpr):
    """Return the four weights of each channel and, where there is one, its bias, in fp32."""
    found = ()
    for k in tl.static_range(4):
        found += (tl.load(weight + at * 4 + k, mask=there, other=0.0).to(tl.float32),)
    if HAS_BIAS:
        found += (tl.load(bias + at, mask=there, other=0.0).to(tl.float32),)
    return found


@triton.jit
def read_step(u, tail, first, t, time, C, there):
    """Return step first + t, from -3 on, as u stores it; u points to step `first`."""
    before = tl.load(tail + (first + t + 3) * C, mask=there & (first + t < 0), other=0.0).to(u.dtype.element_ty)
    return tl.where(first + t < 0, before, tl.load(u + t * time, mask=there & (first + t >= 0), other=0.0))


@triton.jit
def read_steps(u, t, end, time, there, STEPS: tl.constexpr):
    """Return steps t ... as they are stored, zeros from `end` on."""
    found = ()
    for j in tl.static_range(STEPS):
        found += (tl.load(u + (t + j) * time, mask=there & (t + j < end), other=0.0),)
    return found


@triton.jit
def rounded_sum(us, taps, dtype: tl.constexpr, HAS_BIAS: tl.constexpr):
    """Return the convolution at the last of four steps, as it is rounded for `dtype`."""
    s = taps[0] * us[0]
    if HAS_BIAS:
        s += taps[4]
    s += taps[1] * us[1]
    s += taps[2] * us[2]
    s += taps[3] * us[3]
    return s.to(dtype).to(tl.float32)


@triton.jit
def conv_forward(
    u, tail, weight, bias, s, new_tail, T, C, u_batch, u_time, blocks,
    HAS_BIAS: tl.constexpr, SILU: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """s = the convolution, or silu of it; the program of a row's last steps writes the new tail as well."""
    at, there, row, first, rest, _ = place(T, C, blocks, BLOCK, WIDE)
    taps, length = read_taps(weight, bias, at, there, HAS_BIAS), tl.minimum(rest, BLOCK)
    u, tail, s = u + row * u_batch + first * u_time + at, tail + row * 3 * C + at, s + (row * T + first) * C + at
    dtype: tl.constexpr = u.dtype.element_ty
    us = ()
    for j in tl.static_range(3):
        us += (read_step(u, tail, first, j - 3, u_time, C, there).to(tl.float32),)
    ahead = read_steps(u, 0, length, u_time, there, STEPS)
    for t in range(0, length, STEPS):
        now, ahead = ahead, read_steps(u, t + STEPS, length, u_time, there, STEPS)
        for j in tl.static_range(STEPS):
            us += (now[j].to(tl.float32),)
            value = rounded_sum(us, taps, dtype, HAS_BIAS)
            if SILU:
                value = value / (1 + tl.exp2(value * MINUS_LOG2E))
            tl.store(s + (t + j) * C, value, mask=there & (t + j < length))
            us = us[1:]
    if rest <= BLOCK:
        for j in tl.static_range(3):
            value = read_step(u, tail, first, rest - 3 + j, u_time, C, there)
            tl.store(new_tail + (row * 3 + j) * C + at, value, mask=there)


@triton.jit
def gradient_of_sum(g, us, taps, dtype: tl.constexpr, HAS_BIAS: tl.constexpr, SILU: tl.constexpr):
    """Return the gradient of the convolution at the last of four steps, g that of what the layer sees."""
    g = g.to(tl.float32)
    if SILU:
        s = rounded_sum(us, taps, dtype, HAS_BIAS)
        sigmoid = 1 / (1 + tl.exp2(s * MINUS_LOG2E))
        g *= sigmoid * (1 + s * (1 - sigmoid))
    return g


@triton.jit
def add_products(sums, own, gs, latest, HAS_BIAS: tl.constexpr):
    """Return the sums with a step of u, `own`, and the gradients of the four convolutions that it is in, `latest` first; and of the bias."""
    new = (sums[0] + own * gs[0], sums[1] + own * gs[1], sums[2] + own * gs[2], sums[3] + own * gs[3])
    if HAS_BIAS:
        new += (sums[4] + latest,)
    return new


@triton.jit
def gradient_of_step(gs, taps, d_last, t, rest, C, there, HAS_LAST: tl.constexpr):
    """Return the gradient of step t of u, with that of the new tail where this holds it."""
    d = taps[0] * gs[0] + taps[1] * gs[1] + taps[2] * gs[2] + taps[3] * gs[3]
    if HAS_LAST:
        d += tl.load(d_last + (t + 3 - rest) * C, mask=there & (t + 3 >= rest) & (t < rest), other=0.0)
    return d


@triton.jit
def conv_backward(
    g, d_last, u, tail, weight, bias, du, d_tail, parts, T, C, u_batch, u_time, g_batch, g_time, blocks,
    HAS_BIAS: tl.constexpr, SILU: tl.constexpr, HAS_LAST: tl.constexpr, WANTS_TAIL: tl.constexpr,
    BLOCK: tl.constexpr, STEPS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Gradients of some steps of u and, from a row's first program, of the tail; parts[program] = gradients of weight and bias from these steps.

    Step t of u is in the convolutions t ... t + 3: the program is three steps ahead in what it reads.
    """
    at, there, row, first, rest, number = place(T, C, blocks, BLOCK, WIDE)
    taps = read_taps(weight, bias, at, there, HAS_BIAS)
    length, end = tl.minimum(rest, BLOCK), tl.minimum(rest, BLOCK + 3)
    u, g = u + row * u_batch + first * u_time + at, g + row * g_batch + first * g_time + at
    du, tail = du + (row * T + first) * C + at, tail + row * 3 * C + at
    d_tail, d_last = d_tail + row * 3 * C + at, d_last + row * 3 * C + at
    dtype: tl.constexpr = u.dtype.element_ty
    zero = tl.zeros([WIDE], tl.float32)
    us, gs, sums = (), (zero, zero, zero), (zero, zero, zero, zero)
    if HAS_BIAS:
        sums += (zero,)
    for j in tl.static_range(3):
        us += (read_step(u, tail, first, j - 3, u_time, C, there).to(tl.float32),)
    begin_u, begin_g = read_steps(u, 0, end, u_time, there, 3), read_steps(g, 0, end, g_time, there, 3)
    ahead_u = read_steps(u, 3, end, u_time, there, STEPS)
    ahead_g = read_steps(g, 3, end, g_time, there, STEPS)
    for j in tl.static_range(3):
        us += (begin_u[j].to(tl.float32),)
        latest = gradient_of_sum(begin_g[j], us, taps, dtype, HAS_BIAS, SILU)
        gs = (latest, gs[0], gs[1], gs[2])
        # Steps before the block are another program's, but for those of the tail.
        own, counted = tl.where(first == 0, us[0], 0.0), tl.where(first == 0, latest, 0.0)
        sums = add_products(sums, own, gs, counted, HAS_BIAS)
        if WANTS_TAIL:
            d = gradient_of_step(gs, taps, d_last, j - 3, rest, C, there, HAS_LAST)
            tl.store(d_tail + j * C, d, mask=there & (first == 0))
        us = us[1:]
    for t in range(0, length, STEPS):
        now_u, ahead_u = ahead_u, read_steps(u, t + 3 + STEPS, end, u_time, there, STEPS)
        now_g, ahead_g = ahead_g, read_steps(g, t + 3 + STEPS, end, g_time, there, STEPS)
        for j in tl.static_range(STEPS):
            us += (now_u[j].to(tl.float32),)
            latest = gradient_of_sum(now_g[j], us, taps, dtype, HAS_BIAS, SILU)
            gs = (latest, gs[0], gs[1], gs[2])
            sums = add_products(sums, us[0], gs, latest, HAS_BIAS)
            d = gradient_of_step(gs, taps, d_last, t + j, rest, C, there, HAS_LAST)
            tl.store(du + (t + j) * C, d, mask=there & (t + j < length))
            us = us[1:]
    for k in tl.static_range(4 + HAS_BIAS):
        tl.store(parts + (number * (4 + HAS_BIAS) + k) * C + at, sums[k], mask=there)


@triton.jit
def conv_weight_gradient(parts, dw, db, programs, C, HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """dw and db = sums over programs of parts, for some columns a program."""
    column, count = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS), (4 + HAS_BIAS) * C
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, programs, ROWS):
        rows = (start + tl.arange(0, ROWS)).to(tl.int64)
        mask = (rows < programs)[:, None] & (column < count)[None, :]
        total += tl.load(parts + rows[:, None] * count + column[None, :], mask=mask, other=0.0)
    found, tap, channel = tl.sum(total, 0), column // C, column % C
    tl.store(dw + channel * 4 + tap, found, mask=tap < 4)
    if HAS_BIAS:
        tl.store(db + channel, found, mask=tap == 4)


def stepped(x: Tensor) -> Tensor:
    """Return x [B, T, C] with its channels side by side in memory, itself where they are."""
    return x if x.stride(2) == 1 else x.contiguous()


class CausalConvFunction(torch.autograd.Function):
    """causal_conv of conv.py on a GPU."""

    @staticmethod
    def forward(ctx, u: Tensor, tail: Tensor, weight: Tensor, bias: Tensor | None, silu: bool):
        ctx.set_materialize_grads(False)
        (B, T, C), u, tail, weight = u.shape, stepped(u), tail.contiguous(), weight.contiguous()
        s, new_tail = torch.empty((B, T, C), dtype=u.dtype, device=u.device), torch.empty_like(tail)
        blocks = triton.cdiv(T, FORWARD["BLOCK"])
        conv_forward[(B * blocks * triton.cdiv(C, WIDE),)](
            u, tail, weight, weight if bias is None else bias, s, new_tail, T, C, u.stride(0), u.stride(1), blocks,
            HAS_BIAS=bias is not None, SILU=silu, WIDE=WIDE, num_warps=WARPS, **FORWARD,
        )  # fmt: skip
        ctx.save_for_backward(u, tail, weight, bias)
        ctx.silu = silu
        return s, new_tail

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor | None, d_last: Tensor | None):
        u, tail, weight, bias = ctx.saved_tensors
        (B, T, C), has_bias = u.shape, bias is not None
        g = torch.zeros_like(u) if g is None else stepped(g)
        d_last = None if d_last is None else d_last.contiguous()
        du, dw = torch.empty((B, T, C), dtype=u.dtype, device=u.device), torch.empty_like(weight)
        d_tail = torch.empty_like(tail) if ctx.needs_input_grad[1] else None
        db = torch.empty_like(bias) if has_bias else None
        blocks, count = triton.cdiv(T, BACKWARD["BLOCK"]), (4 + has_bias) * C
        parts = torch.empty(B * blocks, count, dtype=torch.float32, device=u.device)
        conv_backward[(B * blocks * triton.cdiv(C, WIDE),)](
            g, tail if d_last is None else d_last, u, tail, weight, bias if has_bias else weight, du,
            tail if d_tail is None else d_tail, parts, T, C, u.stride(0), u.stride(1), g.stride(0), g.stride(1), blocks,
            HAS_BIAS=has_bias, SILU=ctx.silu, HAS_LAST=d_last is not None, WANTS_TAIL=d_tail is not None,
            WIDE=WIDE, num_warps=WARPS, **BACKWARD,
        )  # fmt: skip
        conv_weight_gradient[(triton.cdiv(count, COLUMNS),)](
            parts, dw, db if has_bias else dw, B * blocks, C, HAS_BIAS=has_bias, ROWS=ROWS, COLUMNS=COLUMNS
        )
        return du, d_tail, dw, db, None

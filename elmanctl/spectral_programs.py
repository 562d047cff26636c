"""What the Triton kernels of spectral normalisation do, statement by statement; spectral_kernels.py launches them and says why.

Sums are fp32, in a fixed order.
"""

import triton
import triton.language as tl


@triton.jit
def tile_of(W, row, at, end, columns):
    """Return W[row, at] for rows below `end`, zeros elsewhere."""
    mask = (row < end)[:, None] & (at < columns)[None, :]
    return tl.load(W + row[:, None] * columns + at[None, :], mask=mask, other=0.0)


@triton.jit
def spectral_columns(W, u, parts, kept, rows, columns, eps, UNIT: tl.constexpr, WIDE: tl.constexpr, TALL: tl.constexpr,
                     DEEP: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """parts[program 1] = W^T u over DEEP rows; kept = u, divided by its length unless UNIT."""
    length = 1.0
    row = tl.program_id(1) * DEEP + tl.arange(0, TALL)
    at = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    end = tl.minimum(rows, (tl.program_id(1) + 1) * DEEP)
    tile = tile_of(W, row, at, end, columns)
    if not UNIT:
        whole = tl.load(u + tl.arange(0, WIDE), mask=tl.arange(0, WIDE) < rows, other=0.0)
        length = tl.sqrt(tl.sum(whole * whole, 0)) + eps
    value = tl.load(u + row, mask=row < end, other=0.0) / length
    total = tl.zeros([TALL, COLUMNS], tl.float32)
    for _ in range(0, DEEP, TALL):  # the next tile is under way while one is multiplied
        next_tile = tile_of(W, row + TALL, at, end, columns)
        next_value = tl.load(u + row + TALL, mask=row + TALL < end, other=0.0) / length
        if tl.program_id(0) == 0:
            tl.store(kept + row, value, mask=row < end)
        total += tile * value[:, None]
        row, tile, value = row + TALL, next_tile, next_value
    tl.store(parts + tl.program_id(1) * columns + at, tl.sum(total, 0), mask=at < columns)


@triton.jit
def sum_of_parts(parts, at, columns, PARTS: tl.constexpr):
    """Return some columns of W^T u."""
    value = tl.zeros(at.shape, tl.float32)
    for part in tl.static_range(PARTS):
        value += tl.load(parts + part * columns + at, mask=at < columns, other=0.0)
    return value


@triton.jit
def spectral_rows(W, parts, Wv, rows, columns, eps, PARTS: tl.constexpr, SHORT: tl.constexpr, LONG: tl.constexpr):
    """Wv = W v for SHORT rows a program, v the sum of the parts divided by its length."""
    row = tl.program_id(0) * SHORT + tl.arange(0, SHORT)
    at = tl.arange(0, LONG)
    tile, value = tile_of(W, row, at, rows, columns), sum_of_parts(parts, at, columns, PARTS)
    total = tl.zeros([SHORT, LONG], tl.float32)
    square = tl.zeros([LONG], tl.float32)
    for _ in range(0, columns, LONG):
        at += LONG
        next_tile, next_value = tile_of(W, row, at, rows, columns), sum_of_parts(parts, at, columns, PARTS)
        square += value * value
        total += tile * value[None, :]
        tile, value = next_tile, next_value
    size = tl.sqrt(tl.sum(square, 0)) + eps
    tl.store(Wv + row, tl.sum(total, 1) / size, mask=row < rows)


@triton.jit
def spectral_scale(W, out, buffer, u, parts, v, length, sigma, rows, columns, rho, eps, KEEP: tl.constexpr, WIDE: tl.constexpr,
                   PARTS: tl.constexpr, LONG: tl.constexpr, FLAT: tl.constexpr, SHARE: tl.constexpr):  # fmt: skip
    """v = the sum of the parts, length = |v| + eps, sigma = |v|^2 / length, out = rho / (sigma + eps) W; buffer = u if KEEP."""
    first = tl.program_id(0) == 0
    square = tl.zeros([LONG], tl.float32)
    for start in range(0, columns, LONG):
        at = start + tl.arange(0, LONG)
        value = sum_of_parts(parts, at, columns, PARTS)
        if first:
            tl.store(v + at, value, mask=at < columns)
        square += value * value
    whole = tl.sum(square, 0)
    size = tl.sqrt(whole) + eps
    found = whole / size
    if first:
        tl.store(length, size)
        tl.store(sigma, found)
        if KEEP:
            at = tl.arange(0, WIDE)
            value = tl.load(u + at, mask=at < rows, other=0.0)
            tl.store(buffer + at, value, mask=at < rows)
    scale = rho / (found + eps)
    for step in tl.static_range(SHARE):
        flat = (tl.program_id(0) * SHARE + step) * FLAT + tl.arange(0, FLAT)
        mask = flat < rows * columns
        tl.store(out + flat, tl.load(W + flat, mask=mask, other=0.0) * scale, mask=mask)


@triton.jit
def spectral_dot(G, W, dots, count, FLAT: tl.constexpr):
    """dots[program] = sum of G W over its share."""
    total = tl.zeros([FLAT], tl.float32)
    for start in range(tl.program_id(0) * FLAT, count, tl.num_programs(0) * FLAT):
        flat = start + tl.arange(0, FLAT)
        mask = flat < count
        total += tl.load(G + flat, mask=mask, other=0.0).to(tl.float32) * tl.load(W + flat, mask=mask, other=0.0)
    tl.store(dots + tl.program_id(0), tl.sum(total, 0))


@triton.jit
def spectral_gradient(G, dW, u, v, length, sigma, dots, rows, columns, rho, eps, PROGRAMS: tl.constexpr,
                      ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """dW = s (G - <G, W> / (sigma + eps) u v^T / length), s = rho / (sigma + eps), without the second term where sigma is 0."""
    found = tl.load(sigma)
    both = tl.sum(tl.load(dots + tl.arange(0, PROGRAMS)), 0) / (found + eps)
    both = tl.where(found > 0, both, 0.0) / tl.load(length)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = (row < rows)[:, None] & (at < columns)[None, :]
    place = row[:, None] * columns + at[None, :]
    left = tl.load(u + row, mask=row < rows, other=0.0)
    right = tl.load(v + at, mask=at < columns, other=0.0)
    value = tl.load(G + place, mask=mask, other=0.0).to(tl.float32) - both * (left[:, None] * right[None, :])
    tl.store(dW + place, value * (rho / (found + eps)), mask=mask)

"""AdamW as Triton kernels: clipping, both moments and the weights in one pass of 28 bytes a parameter.

torch's fused AdamW takes gradients that were clipped in memory, 8 bytes a parameter more; told to divide them itself (`grad_scale`), it writes them
back besides. The arithmetic is torch's: decoupled weight decay, bias corrections of both moments, epsilon beside the corrected root.

* `squares` leaves sums of the gradients' squares, in a fixed order: the same norm in every run.
* `decide` is one program: it looks whether loss and gradient are finite, counts the step, and leaves three numbers for `update`.
* `update` takes tensors of one size and one weight decay at once. Where training has halted it writes nothing.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST = 64  # tensors of a launch: with four pointers each, its arguments are 2 KB of the 4 KB that it may have
FLAT = 1024  # elements of a tile, which is what a program of `update` moves
SHARE = 16  # tiles that a program of `squares` adds up
EPS_OF_NORM = 1e-6  # added to the norm that the clip is divided by, as torch.nn.utils.clip_grad_norm_ does


@triton.jit
def chosen(pointers, which, COUNT: tl.constexpr):
    """Return one of several pointers."""
    found = pointers[0]
    for i in tl.static_range(1, COUNT):
        found = tl.where(which == i, pointers[i], found)
    return found


@triton.jit
def power(base: tl.constexpr, exponent):
    """Return base ** exponent for a whole exponent below 2^32, in fp64: 1 - 0.999 ** 1 has no correct digit to spare in fp32."""
    found, factor = tl.full([], 1.0, tl.float64), tl.full([], base, tl.float64)
    for _ in range(32):
        found = tl.where((exponent & 1) == 1, found * factor, found)
        factor, exponent = factor * factor, exponent >> 1
    return found


@triton.jit
def adamw_squares(gs, parts, count, COUNT: tl.constexpr, FLAT: tl.constexpr, SHARE: tl.constexpr):
    """parts[program] = the sum of the squares of its share of a gradient."""
    which = tl.program_id(1)
    g, total = chosen(gs, which, COUNT), tl.zeros([FLAT], tl.float32)
    for step in tl.static_range(SHARE):
        at = (tl.program_id(0) * SHARE + step) * FLAT + tl.arange(0, FLAT)
        gradient = tl.load(g + at, mask=at < count, other=0.0)
        total += gradient * gradient
    tl.store(parts + which * tl.num_programs(0) + tl.program_id(0), tl.sum(total, 0))


@triton.jit
def adamw_decide(loss, parts, lr, halted, counts, outcome, rates, squares, tensors, clip, BETA1: tl.constexpr, BETA2: tl.constexpr,
                 EPS: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """outcome = loss, norm, halted; rates = the clip's factor, lr / correction 1, 1 / root of correction 2; counts grow unless halted."""
    at = tl.arange(0, WIDE)
    sums = tl.zeros([WIDE], tl.float32)
    for start in range(0, squares, WIDE):
        sums += tl.load(parts + start + at, mask=start + at < squares, other=0.0)
    total, length = tl.load(loss), tl.sqrt(tl.sum(sums, 0))
    # x - x is NaN where x is not finite.
    broken = ((total - total) != 0) | ((length - length) != 0) | (tl.load(halted) != 0)
    count = tl.load(counts) + tl.where(broken, 0.0, 1.0)
    tl.debug_barrier()  # every warp has read the count that is now overwritten
    for start in range(0, tensors, WIDE):
        tl.store(counts + start + at, tl.zeros([WIDE], tl.float32) + count, mask=start + at < tensors)
    tl.store(halted, tl.where(broken, 1.0, 0.0))
    tl.store(outcome, total)
    tl.store(outcome + 1, length)
    tl.store(outcome + 2, tl.where(broken, 1.0, 0.0))
    exponent = count.to(tl.int32)
    tl.store(rates, tl.where(clip > 0, tl.minimum(clip / (length + EPS), 1.0), 1.0))
    tl.store(rates + 1, tl.load(lr) / (1.0 - power(BETA1, exponent)).to(tl.float32))
    tl.store(rates + 2, 1.0 / tl.sqrt((1.0 - power(BETA2, exponent)).to(tl.float32)))


@triton.jit
def adamw_update(ps, gs, ms, vs, rates, lr, halted, count, BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr,
                 DECAY: tl.constexpr, COUNT: tl.constexpr, FLAT: tl.constexpr):  # fmt: skip
    """Move `count` weights of each tensor p by its gradient g, and its moments m and v."""
    which = tl.program_id(1)
    p, g, m, v = chosen(ps, which, COUNT), chosen(gs, which, COUNT), chosen(ms, which, COUNT), chosen(vs, which, COUNT)
    factor, rate, root = tl.load(rates), tl.load(rates + 1), tl.load(rates + 2)
    kept, end = 1.0 - tl.load(lr) * DECAY, tl.where(tl.load(halted) == 0, count, 0)
    at = tl.program_id(0) * FLAT + tl.arange(0, FLAT)
    mask = at < end
    gradient = tl.load(g + at, mask=mask, other=0.0) * factor
    first = tl.load(m + at, mask=mask, other=0.0)
    first += (1.0 - BETA1) * (gradient - first)
    second = BETA2 * tl.load(v + at, mask=mask, other=0.0) + (1.0 - BETA2) * gradient * gradient
    weight = tl.load(p + at, mask=mask, other=0.0) * kept
    tl.store(p + at, weight - rate * first / (tl.sqrt(second) * root + EPS), mask=mask)
    tl.store(m + at, first, mask=mask)
    tl.store(v + at, second, mask=mask)


def alike(tensors: Sequence[tuple[Tensor, ...]]) -> list[tuple[tuple[Tensor, ...], ...]]:
    """Put tuples of tensors together whose tensors have one size, at most MOST: [(all firsts, all seconds, ...)]."""
    sizes: dict[int, list[tuple[Tensor, ...]]] = {}
    for each in tensors:
        if each[0].numel():
            sizes.setdefault(each[0].numel(), []).append(each)
    return [tuple(zip(*of[at : at + MOST], strict=True)) for of in sizes.values() for at in range(0, len(of), MOST)]


def squares(gradients: Sequence[Tensor]) -> Tensor:
    """Return sums whose sum is that of the squares of all gradients, each of which lies without gaps in memory, in fp32."""
    groups = [gs for (gs,) in alike([(g,) for g in gradients])]
    programs = [triton.cdiv(gs[0].numel(), FLAT * SHARE) for gs in groups]
    parts = gradients[0].new_empty(
        sum(n * len(gs) for n, gs in zip(programs, groups, strict=True)), dtype=torch.float32
    )
    rest = parts
    for n, gs in zip(programs, groups, strict=True):
        adamw_squares[(n, len(gs))](gs, rest, gs[0].numel(), COUNT=len(gs), FLAT=FLAT, SHARE=SHARE)
        rest = rest[n * len(gs) :]
    return parts


def decide(
    loss: Tensor, parts: Tensor, lr: Tensor, halted: Tensor, counts: Tensor, clip: float, betas: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Count a step unless loss or gradient is not finite, or one before was not; then `halted` becomes 1.

    Args:
        loss: of the step; parts: what `squares` returned; lr, halted: scalars on the GPU.
        counts: [tensors] finished steps, all the same; clip: the greatest norm of the gradients, 0 for any.
    Returns:
        [3] loss, norm, halted; and [3] for `update`: the gradients' factor, lr over the first correction, one over the second's root.
    """
    outcome, rates = (torch.empty(3, dtype=torch.float32, device=counts.device) for _ in range(2))
    adamw_decide[(1,)](
        loss, parts, lr, halted, counts, outcome, rates, len(parts), len(counts), float(clip),
        BETA1=betas[0], BETA2=betas[1], EPS=EPS_OF_NORM, WIDE=FLAT,
    )  # fmt: skip
    return outcome, rates


def update(
    parameters: Sequence[Tensor],
    state: dict[Tensor, dict[str, Tensor]],
    rates: Tensor,
    lr: Tensor,
    halted: Tensor,
    betas: tuple[float, float],
    eps: float,
    decay: float,
) -> None:
    """Move weights and moments of one weight decay, in fp32, by their gradients; those without one stay as they are.

    Args:
        state: of each parameter `exp_avg` and `exp_avg_sq`, as torch.optim.AdamW keeps them; rates, lr, halted: as in `decide`.
    """
    tensors = [(p.data, p.grad, state[p]["exp_avg"], state[p]["exp_avg_sq"]) for p in parameters if p.grad is not None]
    for each in tensors:
        if len({(t.stride(), t.dtype) for t in each}) > 1:
            raise ValueError(
                f"A weight of {tuple(each[0].shape)}, its gradient and its moments do not lie alike in memory."
            )
    for ps, gs, ms, vs in alike(tensors):
        count = ps[0].numel()
        adamw_update[(triton.cdiv(count, FLAT), len(ps))](
            ps, gs, ms, vs, rates, lr, halted, count,
            BETA1=betas[0], BETA2=betas[1], EPS=eps, DECAY=decay, COUNT=len(ps), FLAT=FLAT,
        )  # fmt: skip

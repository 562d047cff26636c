"""The two tests that fix the constants of the rule: right kernels pass a thousand seeds, planted mistakes do not pass once.

* A right kernel is the toy in another summation order: torch's, permuted blocks, one term at a time, fused multiply-adds.
* A mistake acts in full, at 2 % of its size, in one head only, and in the last chunk only.
"""

import functools

import pytest
import torch
from toys import CHUNK, ORDERS, Delta, Dense, established, head

from elmanctl.verify.cases import MEMORY

SEEDS = 1000
LENGTHS = (1, 3, 9, 17)
DTYPES = ("float32", "bfloat16", "float64")
T = 4 * CHUNK + 3
LAST = 4 * CHUNK
HEADS = 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_right_kernels_in_any_summation_order_pass_a_thousand_seeds(dtype):
    worst, seeds = {}, 0
    each = SEEDS // (2 * len(LENGTHS))
    for toy in (Dense, Delta):
        for i, steps in enumerate(LENGTHS):
            draw = "typical" if toy is Dense else ("typical", "saturated", "extreme", "typical")[i]
            known = established(toy, dtype, steps, B=(3, 1)[i % 2], H=each, N=6, draw=draw, seed=i)
            runs = [toy.run(known.problem, order, seed=i) for order in ORDERS]
            for h in range(each):
                rows = head(known, runs[h % len(runs)], toy, h)
                seeds += 1
                for row in rows:
                    key = (toy.__name__, steps, row.tensor)
                    worst[key] = max(worst.get(key, 0.0), row.ratio)
    assert seeds >= SEEDS
    assert max(worst.values()) <= 1, [(k, v) for k, v in worst.items() if v > 1]
    # The rule is no looser than it needs to be: some right kernel comes within a factor of 20 of the limit.
    assert max(worst.values()) > 0.05


def masks():
    """Return how a fault is confined: mask over (time, head)."""
    full = torch.ones(T, HEADS)
    one_head, last = torch.zeros(T, HEADS), torch.zeros(T, HEADS)
    one_head[:, 1] = 1
    last[LAST:] = 1
    return {"full": full, "2 %": 0.02 * full, "one head": one_head, "last chunk": last}


@functools.cache
def truth_of(toy, dtype):
    return established(toy, dtype, T, H=HEADS)


def worst(toy, dtype, fault, mask):
    known = truth_of(toy, dtype)
    return max(known.judge(toy.run(known.problem, fault=fault, mask=mask)), key=lambda row: row.ratio)


@pytest.mark.parametrize("extent", ["full", "2 %", "one head", "last chunk"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("toy", "fault"), [(toy, fault) for toy in (Dense, Delta) for fault in toy.FAULTS])
def test_a_planted_mistake_is_rejected(toy, fault, dtype, extent):
    if fault == "no first-state gradient" and extent == "last chunk":
        pytest.skip("the first state is before the first chunk")
    row = worst(toy, dtype, fault, masks()[extent])
    assert row.ratio > 1, row
    if dtype == "float32":
        assert row.ratio > 50, row  # far beyond the limit where nothing hides behind bf16's own rounding
    if extent == "last chunk" and row.start is not None and fault in ("skipped tail", "scaled", "stale"):
        assert row.start >= LAST


def test_a_term_below_the_noise_of_bf16_is_rejected_in_fp32():
    """h^2 s (1 - s) is 7 % of the gradient here; 2 % of it is less than bf16 itself loses. This is why fp32 is always checked."""
    mask = masks()["2 %"]
    assert worst(Dense, "bfloat16", "dropped small term", mask).ok
    assert worst(Dense, "bfloat16", "dropped small term", masks()["full"]).ratio > 5
    assert worst(Dense, "float32", "dropped small term", mask).ratio > 50


@pytest.mark.parametrize("toy", [Dense, Delta])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_toys_without_a_mistake_pass(toy, dtype):
    known = truth_of(toy, dtype)
    assert all(row.ok for row in known.judge(toy.run(known.problem)))


@pytest.mark.parametrize("extent", ["full", "one head", "last chunk"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_bf16_carry_is_rejected(dtype, extent):
    row = worst(Delta, dtype, "bf16 carry", masks()[extent])
    assert row.ratio > 100, row


def test_a_weight_gradient_accumulated_in_bf16_is_rejected_in_fp32():
    row = worst(Dense, "float32", "bf16 weight gradient", masks()["full"])
    assert row.tensor == "d_W" and row.ratio > 100


def test_a_weight_gradient_accumulated_in_bf16_is_rejected_in_bf16_over_many_steps():
    """In bf16 the drift grows with the root of the steps above the rounding of the store: the reason for the long default case."""

    known = established(Dense, "bfloat16", MEMORY, H=2)
    rows = {row.tensor: row for row in known.judge(Dense.run(known.problem))}
    assert all(row.ok for row in rows.values())
    wrong = Dense.run(known.problem, fault="bf16 weight gradient", mask=torch.ones(MEMORY, 2))
    assert {row.tensor for row in known.judge(wrong) if not row.ok} == {"d_W"}

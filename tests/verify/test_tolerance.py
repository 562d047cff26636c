"""What the rule rejects, and what it says about it."""

import numpy as np
import pytest

from elmanctl.verify.policy import FACTOR
from elmanctl.verify.tolerance import SPARKS, judge

AXES = ("B", "T", "H", "N")
SHAPE = (3, 35, 4, 8)


@pytest.fixture
def setting():
    """Return truth and roundings whose scale differs by head (a thousandth in head 2) and grows over time."""
    random = np.random.default_rng(0)
    scale = np.array([1, 1, 1e-3, 1])[:, None] * np.exp(0.1 * np.arange(SHAPE[1]))[:, None, None]
    truth = random.normal(size=SHAPE) * scale
    return truth, 1e-3 * truth * random.uniform(-1, 1, size=(8, *SHAPE)), random


def rule(truth, rounded, got):
    return judge("t", AXES, got, truth, rounded, 0.0)


def test_errors_like_the_roundings_pass_and_thrice_as_large_fail(setting):
    truth, rounded, random = setting
    noise = 1e-3 * truth * random.uniform(-1, 1, size=SHAPE)
    row = rule(truth, rounded, truth + noise)
    assert 0.2 < row.ratio < 1 and row.ok and row.start is None and row.index == ""
    assert not rule(truth, rounded, truth + 3.5 * noise).ok


def test_a_small_head_has_only_its_own_floor(setting):
    truth, rounded, _ = setting
    got = truth.copy()
    got[:, :, 2] *= 1.02
    row = rule(truth, rounded, got)
    assert row.ratio > 5 and row.group.endswith("H 2") and ", H 2, " in row.index
    assert np.abs(got - truth).sum() < 1e-4 * np.abs(truth).sum()  # nothing in the whole


def test_a_fault_in_the_last_chunk_is_located(setting):
    truth, rounded, _ = setting
    got = truth.copy()
    got[:, 32:] = 0
    row = rule(truth, rounded, got)
    assert row.start == 32 and row.group.startswith("t 32-34") and "T 32" in row.index
    assert row.spark[32:] == SPARKS[-1] * 3 and SPARKS[-1] not in row.spark[:32]


def test_a_single_element_is_found(setting):
    truth, rounded, _ = setting
    got = truth.copy()
    got[1, 20, 3, 5] += 0.05 * np.abs(truth[:, 16:24]).max()
    row = rule(truth, rounded, got)
    assert not row.ok and row.index == "B 1, T 20, H 3, N 5" and row.start == 20


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_fails_wherever_it_is(setting, value):
    truth, rounded, _ = setting
    got = truth.copy()
    got[2, 30, 1, 7] = value
    row = rule(truth, rounded, got)
    assert row.ratio == np.inf and row.index == "B 2, T 30, H 1, N 7" and row.start == 30


def test_zeros_pass_only_where_the_truth_is_exactly_zero(setting):
    truth, rounded, _ = setting
    assert rule(truth, rounded, np.zeros(SHAPE)).ratio > 50
    nothing = np.zeros(SHAPE)
    assert rule(nothing, np.zeros((8, *SHAPE)), nothing).ok
    assert rule(nothing, np.zeros((8, *SHAPE)), nothing + 1e-30).ratio == np.inf


def test_the_limit_is_twice_the_floor_and_the_accumulation_term_enters_it():
    truth = np.full((2, 500), 3.0)
    rounded = np.ones((8, 2, 500))
    for extra in (0.0, 1.0):
        row = judge("t", ("B", "D"), truth + 2.0, truth, rounded, extra)
        limit = FACTOR * (1 + 4 / np.sqrt(2 * 500) + 3 * extra)  # by row: 500 equal elements
        assert row.ratio == pytest.approx(2.0 / limit, rel=0.05)


def test_a_tensor_of_one_element_is_judged():
    truth, rounded = np.array([1.0]), 1e-3 * np.random.default_rng(0).uniform(-1, 1, size=(12, 1))
    assert judge("t", ("H",), truth * 1.0005, truth, rounded, 0.0).ok
    assert not judge("t", ("H",), truth * 1.02, truth, rounded, 0.0).ok


@pytest.mark.parametrize(("scale", "passes"), [(1e-51, True), (1e-39, True), (1e-36, False), (1.0, False)])
def test_what_underflows_in_the_accumulator_may_be_lost_and_nothing_larger(setting, scale, passes):
    """A gradient through nineteen decays of 1e-3 is 0 in fp32; truth and roundings in fp64 know nothing of that."""
    _, _, random = setting
    truth = scale * random.uniform(0.5, 1, size=SHAPE)
    row = judge("t", AXES, 0 * truth, truth, 1e-7 * np.stack([truth, -truth]), 0.0, 2.0**-126)
    assert row.ok is passes


def test_one_huge_element_hides_nothing_in_other_groups(setting):
    """A key without length makes a gradient of 1e6 in one head; the last steps of the others are zeros that must be found."""
    truth, rounded, _ = setting
    truth, rounded = truth.copy(), rounded.copy()
    truth[0, 33, 1], rounded[:, 0, 33, 1] = 1e6, 1e-1
    got = truth.copy()
    got[:, 32:, 3] = 0
    row = judge("t", AXES, got, truth, rounded, 1e-5)
    assert row.ratio > 50 and row.group.endswith("H 3")

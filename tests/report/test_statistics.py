"""Statistics of the report: coverage, the planted difference, several tests at once, and looking again and again."""

import math

import numpy as np
import pytest

from elmanctl.report import statistics, student

STEPS = 100


def correlated(random, count, n, rho, spread=1.0):
    """Return `count` series of `n` values whose neighbours correlate by rho, standard deviation `spread`."""
    noise = random.standard_normal((count, n + 50))
    for i in range(1, n + 50):
        noise[:, i] = rho * noise[:, i - 1] + math.sqrt(1 - rho**2) * noise[:, i]
    return spread * noise[:, 50:]


def two_runs(random, difference=0.005):
    """Return the last 100 losses of two runs on the same batches, the first better by `difference`.

    Noise as in real runs: 0.05 from batch to batch, of which the two share all but 3 %; a common trend; neighbours correlate a little.
    (Seven models of 100 M parameters, one minute each on one H200: 0.046 to 0.062, shared all but 0.4 to 1.7 %, neighbours -0.26 to 0.04.)
    """
    trend = 1.5 - 2e-4 * np.arange(STEPS)
    shared = correlated(random, 1, STEPS, 0.1, 0.05 * math.sqrt(0.97))[0]
    own = correlated(random, 2, STEPS, 0.2, 0.05 * math.sqrt(0.03))
    return trend + shared + own[0] - difference, trend + shared + own[1]


@pytest.mark.parametrize(
    ("level", "freedom", "expected"),
    [
        (0.95, 1, 12.7062),
        (0.95, 4, 2.776445),
        (0.95, 19, 2.093024),
        (0.99, 99, 2.626405),
        (0.6, 2, 1.060660),
        (0.95, math.inf, 1.959964),
    ],
)
def test_students_t_is_that_of_the_tables(level, freedom, expected):
    assert student.quantile(level, freedom) == pytest.approx(expected, rel=1e-5)
    assert student.tail(expected, freedom) == pytest.approx(1 - level, rel=1e-4)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6])
def test_the_interval_of_a_mean_holds_the_truth_as_often_as_it_says(rho):
    random = np.random.default_rng(1)
    trend = 2 - 0.01 * np.arange(STEPS)
    runs = correlated(random, 1000, STEPS, rho) + trend
    inside = sum(low <= trend.mean() <= high for low, high in (statistics.mean(r).interval() for r in runs))
    assert 0.915 <= inside / len(runs) <= 0.97  # 0.95 is meant; 100 values know their own correlation only so well


def test_without_blocks_the_interval_of_correlated_losses_would_be_too_narrow():
    runs = correlated(np.random.default_rng(2), 500, STEPS, 0.6)
    naive = sum(abs(r.mean()) <= 1.96 * r.std(ddof=1) / math.sqrt(STEPS) for r in runs) / len(runs)
    assert naive < 0.75


def test_the_closed_form_is_the_block_bootstrap():
    values = correlated(np.random.default_rng(3), 1, STEPS, 0.4)[0]
    time = np.arange(STEPS)
    residuals = values - np.polyval(np.polyfit(time, values, 1), time)
    length = statistics.block_length(residuals)
    random = np.random.default_rng(4)
    starts = random.integers(0, STEPS, (20_000, STEPS // length))
    drawn = residuals[(starts[:, :, None] + np.arange(length)) % STEPS].mean((1, 2))
    number = STEPS / length
    resampled = drawn.std() * math.sqrt((STEPS // length) / number) * math.sqrt(number / (number - 2))
    assert statistics.mean(values).error == pytest.approx(resampled, rel=0.03)


def test_a_planted_difference_is_found_by_the_paired_test_and_missed_by_the_unpaired_one():
    random = np.random.default_rng(5)
    found = {"paired": 0, "unpaired": 0}
    for _ in range(200):
        a, b = two_runs(random)
        paired = statistics.mean(a - b)
        found["paired"] += paired.p < 0.05 and paired.value < 0
        found["unpaired"] += statistics.unpaired(statistics.mean(a), statistics.mean(b)).p < 0.05
    assert found["paired"] > 180 and found["unpaired"] < 20


def test_no_difference_is_rarely_found():
    random = np.random.default_rng(6)
    pairs = [two_runs(random, 0.0) for _ in range(500)]
    assert sum(statistics.mean(a - b).p < 0.05 for a, b in pairs) <= 40


def test_too_few_values_give_no_interval_and_no_claim():
    few = statistics.mean(np.ones(9))
    assert few.interval() is None and few.p == 1
    one = statistics.independent(np.array([1.5]))
    assert one.interval() is None and statistics.unpaired(one, few).p == 1
    assert math.isnan(statistics.mean(np.array([])).value)


def test_constant_series_have_no_noise():
    same = statistics.mean(np.full(STEPS, 2.0))
    assert same.interval() == (2.0, 2.0) and statistics.mean(np.zeros(STEPS)).p == 1


def test_seeds_are_compared_by_students_t():
    estimate = statistics.independent(np.array([1.0, 2.0, 3.0]))
    assert estimate.interval() == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))


def test_several_tests_at_once_cost():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.01], tests=10) == pytest.approx([0.1])
    assert statistics.holm([]) == []


def test_looking_after_every_seed_makes_no_more_false_claims_than_looking_once():
    random = np.random.default_rng(7)
    series = random.standard_normal((600, 20))
    claims = {"guarded": 0, "naive": 0}
    for seeds in series:
        looks = [(n, statistics.independent(seeds[:n]).p) for n in range(2, 21)]
        claims["guarded"] += any(p < statistics.allowance(n - 1) for n, p in looks)
        claims["naive"] += any(p < statistics.ERROR for _, p in looks)
    assert claims["naive"] / 600 > 0.15 and claims["guarded"] / 600 < statistics.ERROR


def test_the_seeds_that_would_tell_do_tell_four_times_in_five():
    need = statistics.seeds_needed(0.005, 0.008)
    runs = np.random.default_rng(8).normal(0.005, 0.008, (2000, need))
    told = sum(statistics.independent(r).p < statistics.ERROR for r in runs) / 2000
    assert 0.72 < told < 0.88
    assert (
        statistics.seeds_needed(0.0, 0.008) is None
        and statistics.seeds_needed(0.0, 0.0) is None
        and statistics.seeds_needed(1e-6, 1.0) is None
    )

"""Intervals and tests against scipy, statsmodels and enumeration written here on their own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from hotfix.report.paired import compare_paired
from hotfix.report.statistics import mean_interval, rate_interval


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (1, 1), (0, 7), (7, 7), (1, 2), (3, 10), (40, 164), (999, 1000)])
def test_rate_of_single_samples_is_plain_wilson(hits: int, count: int) -> None:
    estimate = rate_interval([1] * hits + [0] * (count - hits), [1] * count)
    low, high = proportion_confint(hits, count, method="wilson")
    assert estimate.value == pytest.approx(hits / count, abs=1e-15)
    assert estimate.n == count
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-12)


def test_rate_weighs_examples_equally_and_counts_samples() -> None:
    estimate = rate_interval([1, 0], [1, 99])
    assert (estimate.value, estimate.n) == (0.5, 100)


@pytest.mark.parametrize("seed", range(5))
def test_rate_interval_by_hand(seed: int) -> None:
    hits, groups = clustered(seed)
    rates, samples = hits / 4, 4 * len(hits)
    p = rates.mean()
    totals = [sum(rates[groups == group] - p) for group in range(25)]
    variance = 25 / 24 * sum(total**2 for total in totals) / len(rates) ** 2
    size = p * (1 - p) / variance * (stats.t.ppf(0.975, samples - 1) / stats.t.ppf(0.975, 24)) ** 2
    assert 25 < size < samples
    estimate = rate_interval(hits, [4] * len(hits), groups)
    expected = proportion_confint(p * size, size, method="wilson")
    assert (estimate.low, estimate.high) == pytest.approx(expected, abs=1e-12)


def test_dependent_groups_count_as_one_sample_each() -> None:
    outcomes = [1, 0, 1, 1, 0, 0, 1, 1]
    repeated = rate_interval(np.repeat(outcomes, 20), [1] * 160, np.repeat(np.arange(8), 20))
    single = rate_interval(outcomes, [1] * 8)
    assert repeated.n == 160
    assert (repeated.low, repeated.high) == pytest.approx((single.low, single.high), abs=1e-12)


def test_identical_rates_count_every_sample() -> None:
    estimate = rate_interval([5] * 10, [10] * 10)
    assert (estimate.low, estimate.high) == pytest.approx(proportion_confint(50, 100, method="wilson"), abs=1e-12)


def test_rate_at_the_ends_counts_examples() -> None:
    estimate = rate_interval([0] * 12, [20] * 12)
    assert (estimate.value, estimate.n, estimate.low) == (0.0, 240, 0.0)
    assert estimate.high == pytest.approx(proportion_confint(0, 12, method="wilson")[1])
    assert rate_interval([3, 7, 11], [3, 7, 11])[::3] == (1.0, 1.0)


def test_rate_leaves_out_the_undefined() -> None:
    assert rate_interval([1, math.nan, 0, 0], [1, 1, 0, 1]) == rate_interval([1, 0], [1, 1])
    empty = rate_interval([], [])
    assert empty.n == 0
    assert all(map(math.isnan, (empty.value, empty.low, empty.high)))


def test_one_group_of_many_examples_is_one_sample() -> None:
    estimate = rate_interval([1, 0, 1, 0], [1] * 4, ["a"] * 4)
    assert (estimate.low, estimate.high) == pytest.approx(proportion_confint(0.5, 1, method="wilson"), abs=1e-12)


def clustered(seed: int) -> tuple[NDArray[np.int_], NDArray[np.intp]]:
    """Hits out of 4 for 6 examples in each of 25 groups, whose rates differ as Beta(2, 3): mean 0.4."""
    random = generator(seed)
    groups = np.repeat(np.arange(25), 6)
    return random.binomial(4, random.beta(2, 3, size=25)[groups]), groups


def test_rate_interval_covers() -> None:
    covered = ignored = 0
    for seed in range(400):
        hits, groups = clustered(seed)
        estimate = rate_interval(hits, [4] * len(hits), groups)
        covered += estimate.low <= 0.4 <= estimate.high
        low, high = proportion_confint(hits.sum(), 4 * len(hits), method="wilson")
        ignored += low <= 0.4 <= high
    assert 0.91 <= covered / 400 <= 0.99
    assert ignored / 400 < 0.8  # so the groups mattered


def test_mean_interval_agrees_with_scipy() -> None:
    values = generator(3).exponential(size=60)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=50_000, method="BCa", rng=generator(1), vectorized=True
    ).confidence_interval
    estimate = mean_interval(values)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.n == 60
    assert estimate.low == pytest.approx(expected.low, abs=0.02)
    assert estimate.high == pytest.approx(expected.high, abs=0.02)
    assert estimate.high - estimate.value > estimate.value - estimate.low


def test_mean_interval_is_reproducible_and_indifferent_to_labels() -> None:
    values, groups = generator(4).normal(size=30), np.repeat(np.arange(10), 3)
    assert mean_interval(values, groups) == mean_interval(values, [f"rule-{group}" for group in groups])
    assert mean_interval(values, groups) != mean_interval(values, groups, seed=1)


@pytest.mark.parametrize("skewed", [False, True])
def test_mean_interval_covers_with_groups(skewed: bool) -> None:
    covered = ignored = 0
    groups = np.repeat(np.arange(30), 5)
    for seed in range(300):
        random = generator(seed)
        effect = random.exponential(size=30) - 1 if skewed else random.normal(size=30)
        values = 2 + effect[groups] + 0.3 * random.normal(size=150)
        estimate, naive = mean_interval(values, groups), mean_interval(values)
        covered += estimate.low <= 2 <= estimate.high
        ignored += naive.low <= 2 <= naive.high
    assert 0.9 <= covered / 300 <= 0.99
    assert ignored / 300 < 0.8


def test_mean_interval_of_degenerate_inputs() -> None:
    one = mean_interval([3.0])
    assert (one.value, one.n) == (3.0, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert math.isnan(mean_interval([1.0, 2.0], ["a", "a"]).low)
    assert mean_interval([0.1] * 7)[::2] == pytest.approx((0.1, 0.1))
    assert mean_interval([1.0, math.nan, 2.0]).n == 2
    two = mean_interval([1.0, 2.0])
    assert 1.0 <= two.low < two.value < two.high <= 2.0
    assert mean_interval([])[1] == 0
    assert math.isinf(mean_interval([1.0, math.inf]).value)
    assert math.isnan(mean_interval([1.0, math.inf]).low)


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="0 <= hits <= counts"):
        rate_interval([2], [1])
    with pytest.raises(ValueError, match=r"vectors of one length; got shapes \[\(2,\), \(3,\)\]"):
        compare_paired([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="one value per example"):
        mean_interval(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="got 1 groups for 2 examples"):
        rate_interval([1, 1], [1, 1], ["a"])

"""Paired tests and differences against scipy, statsmodels, enumeration and simulation written here on their own."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from hotfix.report.paired import compare_paired, false_discovery_rates, sign_flip_test
from hotfix.report.statistics import mean_interval


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("gained", "lost", "same"), [(5, 1, 4), (0, 6, 0), (3, 3, 10), (30, 12, 100)])
def test_mcnemar_is_the_sign_test_on_discordant_pairs(gained: int, lost: int, same: int) -> None:
    before = [0] * gained + [1] * lost + [1] * same
    after = [1] * gained + [0] * lost + [1] * same
    result = compare_paired(before, after, kind="binary")
    assert result.test == "exact McNemar"
    assert result.p == pytest.approx(min(1.0, stats.binomtest(gained, gained + lost).pvalue))
    assert result.effect == pytest.approx((gained - lost) / (gained + lost + same))


def test_mcnemar_against_enumeration() -> None:
    before, after = [0, 0, 0, 0, 1, 0, 1], [1, 1, 1, 1, 0, 0, 1]
    difference = np.subtract(after, before)
    flips = [abs(np.dot(signs, difference)) for signs in itertools.product((-1, 1), repeat=7)]
    assert compare_paired(before, after).p == pytest.approx(np.mean(np.array(flips) >= abs(difference.sum())))


def test_wilcoxon_against_enumeration() -> None:
    before = np.zeros(9)
    after = np.array([0.9, 0.8, -0.1, 0.7, 0.0, 0.35, -0.2, 0.6, 0.5])
    ranks = stats.rankdata(np.abs(after[after != 0]))
    signed = np.sign(after[after != 0]) * ranks
    flips = [abs(np.dot(signs, ranks)) for signs in itertools.product((-1, 1), repeat=8)]
    result = compare_paired(before, after, kind="rate")
    assert result.test == "Wilcoxon signed-rank"
    assert result.p == pytest.approx(np.mean(np.array(flips) >= abs(signed.sum()) - 1e-9))
    assert result.effect == pytest.approx((signed[signed > 0].sum() + signed[signed < 0].sum()) / ranks.sum())


def test_wilcoxon_effect_reaches_its_ends_and_signs() -> None:
    assert compare_paired([0.1, 0.2, 0.3], [0.2, 0.4, 0.6]).effect == 1.0
    assert compare_paired([0.2, 0.4, 0.6], [0.1, 0.2, 0.3]).effect == -1.0


def test_kind_decides_what_zeros_and_ones_are() -> None:
    before, after = [0, 0, 1, 0], [1, 1, 1, 1]
    assert compare_paired(before, after, kind="rate").test == "exact McNemar"
    assert compare_paired(before, after, kind="real").test == "Wilcoxon signed-rank"
    with pytest.raises(ValueError, match="kind 'binary' needs values of 0 and 1"):
        compare_paired([0.5], [1], kind="binary")


@pytest.mark.parametrize("groups", [None, ["a", "a", "b"]])
@pytest.mark.parametrize("value", [1.0, 0.3])
def test_no_change_is_p_one(value: float, groups: list[str] | None) -> None:
    assert compare_paired([value] * 3, [value] * 3, groups)[1:4] == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(("kind", "groups"), [("binary", None), ("real", None), ("real", [])])
def test_no_examples_is_undefined(kind: str, groups: list[str] | None) -> None:
    result = compare_paired([], [], groups, kind="binary" if kind == "binary" else "real")
    assert math.isnan(result.p)
    assert math.isnan(result.effect)


def test_pairs_with_nan_are_left_out() -> None:
    expected = compare_paired([0.1, 0.2, 0.9], [0.4, 0.1, 1.0])
    assert compare_paired([0.1, 0.2, math.nan, 0.9, 0.5], [0.4, 0.1, 3.0, 1.0, math.nan]) == expected
    grouped = compare_paired([0, 0, math.nan], [1, 1, 1], ["a", "b", "b"])
    assert grouped.test == "exact McNemar"


def test_groups_with_members_use_the_sign_flip_test() -> None:
    before, after, groups = [0, 0, 1, 0, 0, 0], [1, 1, 1, 1, 0, 1], [1, 1, 2, 2, 3, 3]
    result = compare_paired(before, after, groups, group_name="rule")
    assert result[:2] == ("paired sign-flip by rule", sign_flip_test(before, after, groups))
    assert result.effect == pytest.approx(4 / 6)
    assert compare_paired(before, after, range(6)).test == "exact McNemar"


@pytest.mark.parametrize("number", [1, 2, 5, 12])
def test_sign_flip_against_enumeration(number: int) -> None:
    random = generator(number)
    groups = random.permutation(np.concatenate([np.arange(number), random.integers(number, size=20)]))
    before, after = random.random(len(groups)), random.random(len(groups)) + 0.2
    totals = [sum((after - before)[groups == group]) for group in range(number)]
    flips = [abs(sum(s * t for s, t in zip(signs, totals, strict=True))) for signs in flips_of(number)]
    expected = np.mean(np.array(flips) >= abs(sum(totals)) - 1e-12)
    assert sign_flip_test(before, after, groups) == pytest.approx(expected, abs=1e-12)


def flips_of(number: int) -> itertools.product[tuple[int, ...]]:
    return itertools.product((-1, 1), repeat=number)


def test_sign_flip_draws_approach_enumeration() -> None:
    difference = generator(9).normal(0.35, 1, size=14)
    signs = np.array(list(flips_of(14)))
    exact = np.mean(np.abs(signs @ difference) >= abs(difference.sum()) - 1e-12)
    drawn = sign_flip_test(np.zeros(14), difference)
    assert 0.05 < exact < 0.9
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))
    assert drawn == sign_flip_test(np.zeros(14), difference)
    assert drawn != sign_flip_test(np.zeros(14), difference, seed=1)


def test_sign_flip_p_is_never_zero() -> None:
    assert sign_flip_test(np.zeros(40), np.ones(40)) == pytest.approx(1 / 20_001)


@pytest.mark.parametrize("seed", range(10))
def test_sign_flip_ties_survive_rounding(seed: int) -> None:
    tenths = generator(seed).integers(-5, 8, size=8)
    flips = [abs(sum(s * t for s, t in zip(signs, tenths.tolist(), strict=True))) for signs in flips_of(8)]
    expected = sum(flip >= abs(tenths.sum()) for flip in flips) / 2**8
    assert sign_flip_test(np.zeros(8), tenths / 10) == expected


def test_sign_flip_rejects_at_its_level_under_the_null() -> None:
    groups = np.repeat(np.arange(15), 4)
    rejected = 0
    for seed in range(200):
        random = generator(seed)
        difference = random.normal(size=15)[groups] + 0.2 * random.normal(size=60)
        rejected += sign_flip_test(np.zeros(60), difference, groups) <= 0.05
    assert rejected / 200 <= 0.09


@pytest.mark.parametrize(
    ("gained", "lost", "size", "expected"),
    # By hand: (2 - 1) / 22 +- 1.95996 sqrt(((2 + 1) / 22 - (1 / 22)^2) / 22), and so on.
    [(1, 0, 20, (-0.1077, 0.1986)), (0, 0, 20, (-0.1260, 0.1260)), (8, 2, 48, (-0.0117, 0.2517))],
)
def test_difference_of_lone_outcomes(gained: int, lost: int, size: int, expected: tuple[float, float]) -> None:
    before = [0] * gained + [1] * lost + [0] * (size - gained - lost)
    after = [1] * gained + [0] * lost + [0] * (size - gained - lost)
    found = compare_paired(before, after)
    assert found.difference == pytest.approx((gained - lost) / size)
    assert (found.low, found.high) == pytest.approx(expected, abs=2e-4)


def test_difference_of_other_values_is_bootstrapped_by_groups() -> None:
    groups = list("aabbccdd")
    before, after = generator().random(8), generator(1).random(8)
    found = compare_paired(before, after, groups, kind="real")
    expected = mean_interval(after - before, groups)
    assert (found.difference, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_a_rate_that_did_not_change_may_still_have_changed() -> None:
    few = compare_paired([0.5] * 20, [0.5] * 20, kind="rate")
    assert few.difference == 0
    assert few.low == pytest.approx(-0.1260, abs=1e-4)
    grouped = compare_paired([0.5] * 20, [0.5] * 20, [i // 10 for i in range(20)], kind="rate")
    assert grouped.low < few.low, "two groups are two examples"
    real = compare_paired([0.5] * 20, [0.5] * 20, kind="real")
    assert (real.low, real.high, real.detectable) == (0, 0, 0)


@pytest.mark.parametrize("size", [160, 320])
def test_what_is_detectable_is_found_four_times_in_five(size: int) -> None:
    draw, zeros = generator(), np.zeros(size)
    detectable = float(
        np.mean([compare_paired(zeros, draw.normal(size=size), kind="real").detectable for _ in range(40)])
    )
    assert detectable == pytest.approx((1.96 + 0.8416) / math.sqrt(size), rel=0.05)
    found = [compare_paired(zeros, draw.normal(-detectable, size=size), kind="real").p < 0.05 for _ in range(300)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize("seed", range(3))
def test_false_discovery_rates_against_statsmodels(seed: int) -> None:
    p_values = generator(seed).random(12) ** 3
    expected = multipletests(p_values, method="fdr_bh")[1]
    assert false_discovery_rates(p_values) == pytest.approx(expected)
    with_unknown = false_discovery_rates([*p_values, math.nan])
    assert with_unknown[:-1] == pytest.approx(expected)
    assert math.isnan(with_unknown[-1])


def test_false_discovery_rates_of_nothing() -> None:
    assert false_discovery_rates([]).tolist() == []
    assert np.isnan(false_discovery_rates([math.nan])).all()

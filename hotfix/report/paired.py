"""Paired tests of after against before over per-example values, and how far apart they are.

An example is one prompt or one pair. Examples of one group (say the contexts of one rule) are not independent, so tests
take the groups; without groups every example is its own. Undefined values (NaN) are left out.

References:
    Bonett & Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired
        data".
    McNemar 1947; Wilcoxon 1945; Kerby 2014, "The simple difference formula" (matched-pairs rank-biserial correlation).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from statistics import NormalDist
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hotfix.report.arrays import Floats, group_codes, group_sums, vectors
from hotfix.report.statistics import CONFIDENCE, mean_interval

__all__ = ["Comparison", "compare_paired", "false_discovery_rates", "sign_flip_test"]

Kind: TypeAlias = Literal["binary", "rate", "real"]

_NORMAL: Final = NormalDist()
_POWER: Final = 0.8
_FLIPS: Final = 20_000
_MOST_ENUMERATED_GROUPS: Final = 12


class Comparison(NamedTuple):
    """A two-sided paired test of after against before.

    Attributes:
        test: the test's name, to be read by people.
        p: p-value; 1 when nothing changed, NaN without examples.
        effect: positive when after is larger; its unit is the test's (see ``compare_paired``).
        difference: mean of after minus before over the examples.
        low: lower end of its 95% interval.
        high: upper end.
        detectable: the smallest difference that a test of this size would have found four times in five, by the normal
            approximation; an exact test of few outcomes finds less.
    """

    test: str
    p: float
    effect: float
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    detectable: float = math.nan


def compare_paired(
    before: ArrayLike,
    after: ArrayLike,
    groups: Iterable[Hashable] | None = None,
    kind: Kind = "rate",
    group_name: str = "group",
) -> Comparison:
    """Test whether after differs from before on the same examples.

    - groups with more than one member: ``sign_flip_test``, named "paired sign-flip by <group name>"; the effect is the
      mean difference over examples;
    - else, every value 0 or 1 (and ``kind`` not "real"): exact McNemar; the effect is the difference of the rates;
    - else: Wilcoxon signed-rank on the differences; the effect is the matched-pairs rank-biserial correlation, -1 to 1
      (Kerby 2014). Examples that did not change are dropped (Wilcoxon's own treatment, not Pratt's), as McNemar does.

    The interval of the difference is bootstrapped by groups (``mean_interval``); of lone outcomes it is Bonett and
    Price's, and so it is of a rate that didn't change, with a group as one example: no change seen is not no change.

    Args:
        before: a value per example.
        after: a value per example, in the same order; pairs with a NaN are left out.
        groups: a label per example; default: each is its own.
        kind: "binary" insists on 0 and 1, "rate" allows them, "real" never takes them for outcomes.
        group_name: what a group is, for the test's name.

    >>> found = compare_paired([0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1], kind="binary")
    >>> found.test, found.p, round(found.difference, 3), round(found.low, 3), round(found.high, 3)
    ('exact McNemar', 0.0625, 0.833, 0.143, 1.0)
    """
    first, second, codes = _pairs(before, after, groups)
    outcomes = bool(np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all())
    if kind == "binary" and not outcomes:
        raise ValueError("kind 'binary' needs values of 0 and 1; use 'rate' or 'real' for others")
    binary = outcomes and kind != "real"
    if not len(first):
        return Comparison("exact McNemar" if binary else "Wilcoxon signed-rank", math.nan, math.nan)
    if len(np.unique(codes)) < len(codes):
        p = _sign_flip_p(second - first, codes, seed=0)
        found = Comparison(f"paired sign-flip by {group_name}", p, float(np.mean(second - first)))
        return Comparison(*found[:3], *_difference(first, second, codes, kind, outcomes=False))
    found = _mcnemar(first, second) if binary else _wilcoxon(first, second)
    return Comparison(*found[:3], *_difference(first, second, codes, kind, outcomes=binary))


def _difference(
    before: Floats, after: Floats, codes: NDArray[np.intp], kind: Kind, outcomes: bool
) -> tuple[float, float, float, float]:
    """Mean difference, its interval, and what a test would have found: a ``Comparison``'s last fields."""
    change = after - before
    if outcomes or (kind != "real" and not change.any()):
        size = len(change) if outcomes else len(np.unique(codes))
        low, high = _bonett_price(int(np.sum(change > 0)), int(np.sum(change < 0)), size)
    else:
        low, high = mean_interval(change, codes)[2:]
    quantile, power = _NORMAL.inv_cdf((1 + CONFIDENCE) / 2), _NORMAL.inv_cdf(_POWER)
    detectable = (high - low) / 2 * (quantile + power) / quantile
    return float(change.mean()), low, high, detectable


def _bonett_price(gained: int, lost: int, size: int) -> tuple[float, float]:
    """Adjusted Wald interval of a paired difference of rates, eq. 2 of Bonett & Price 2012."""
    up, down = (gained + 1) / (size + 2), (lost + 1) / (size + 2)
    half = _NORMAL.inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt((up + down - (up - down) ** 2) / (size + 2))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def false_discovery_rates(p_values: ArrayLike) -> Floats:
    """Benjamini and Hochberg's adjusted p-values of several tests; an undefined one stays so and doesn't count.

    Calling significant what is at most q leaves an expected share of at most q of false discoveries among them, for
    independent or positively dependent tests (Benjamini & Hochberg 1995; Benjamini & Yekutieli 2001).

    >>> false_discovery_rates([0.01, 0.04, 0.03, float("nan")]).round(3).tolist()
    [0.03, 0.04, 0.04, nan]
    """
    from scipy.stats import false_discovery_control

    found = vectors(p_values)[0].copy()
    known = ~np.isnan(found)
    if known.any():
        found[known] = false_discovery_control(found[known])
    return found


def _mcnemar(before: Floats, after: Floats) -> Comparison:
    name = "exact McNemar"
    gained, lost = int(np.sum(after > before)), int(np.sum(after < before))
    if gained + lost == 0:
        return Comparison(name, 1.0, 0.0)
    from statsmodels.stats.contingency_tables import mcnemar

    p = float(mcnemar([[0, gained], [lost, 0]], exact=True).pvalue)
    return Comparison(name, p, (gained - lost) / len(before))


def _wilcoxon(before: Floats, after: Floats) -> Comparison:
    name = "Wilcoxon signed-rank"
    difference = after - before
    difference = difference[difference != 0]
    if not len(difference):
        return Comparison(name, 1.0, 0.0)
    from scipy.stats import rankdata, wilcoxon

    ranks = rankdata(np.abs(difference))
    effect = float(np.sum(ranks * np.sign(difference)) / np.sum(ranks))
    return Comparison(name, float(wilcoxon(difference, zero_method="wilcox").pvalue), effect)


def sign_flip_test(
    before: ArrayLike, after: ArrayLike, groups: Iterable[Hashable] | None = None, seed: int = 0
) -> float:
    """p-value of the paired permutation test that flips the sign of whole groups; statistic: |mean difference|.

    Up to 12 groups every flip is enumerated; above, 20,000 seeded draws give ``(1 + as extreme) / (1 + draws)``.

    >>> sign_flip_test([0, 0, 0, 0], [1, 1, 1, 1], groups=["a", "a", "b", "c"])
    0.25
    """
    first, second, codes = _pairs(before, after, groups)
    return _sign_flip_p(second - first, codes, seed)


def _sign_flip_p(difference: Floats, codes: NDArray[np.intp], seed: int) -> float:
    if not len(difference):
        return math.nan
    totals = group_sums(difference, codes)
    # A group sum of 0.1 + 0.2 - 0.3 is no change: ties must survive rounding.
    tolerance = 1e-9 * float(np.abs(difference).sum())
    observed = abs(totals.sum()) - tolerance
    number = len(totals)
    if number <= _MOST_ENUMERATED_GROUPS:
        bits = np.arange(2**number)[:, None] >> np.arange(number) & 1  # [2^groups, groups]
        return float(np.mean(np.abs((2 * bits - 1) @ totals) >= observed))
    extreme, generator = 0, np.random.default_rng(seed)
    for _ in range(_FLIPS // 1000):
        signs = generator.integers(2, size=(1000, number), dtype=np.int8) * 2 - 1  # a block bounds the memory
        extreme += int(np.sum(np.abs(signs @ totals) >= observed))
    return (1 + extreme) / (1 + _FLIPS)


def _pairs(
    before: ArrayLike, after: ArrayLike, groups: Iterable[Hashable] | None
) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Both sides and the group codes of the pairs without NaN."""
    first, second = vectors(before, after)
    codes = group_codes(groups, len(first))
    kept = ~(np.isnan(first) | np.isnan(second))
    return first[kept], second[kept], codes[kept]

"""Intervals and paired tests over per-example values; numpy in, named tuples out.

An example is one prompt or one pair. Examples of one group (say the contexts of one rule) are not independent, so
intervals and tests take the groups; without groups every example is its own. Undefined values (NaN) are left out.

References:
    Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    Korn & Graubard 1998, "Confidence intervals for proportions with small expected number of positive counts
        estimated from survey data" (effective sample size).
    Dean & Pagano 2015, "Evaluating confidence interval methods for binomial proportions in clustered surveys".
    Efron 1987, "Better bootstrap confidence intervals" (BCa).
    McNemar 1947; Wilcoxon 1945; Kerby 2014, "The simple difference formula" (matched-pairs rank-biserial correlation).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from statistics import NormalDist
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Comparison", "Estimate", "compare_paired", "mean_interval", "rate_interval", "sign_flip_test"]

Kind: TypeAlias = Literal["binary", "rate", "real"]
Floats: TypeAlias = NDArray[np.float64]

_NORMAL: Final = NormalDist()
_CONFIDENCE: Final = 0.95
_RESAMPLES: Final = 2000
_FLIPS: Final = 20_000
_MOST_ENUMERATED_GROUPS: Final = 12


class Estimate(NamedTuple):
    """A value with its 95% confidence interval; NaN where the data can't say.

    Attributes:
        value: the estimate.
        n: how many samples (rates) or examples (means) it rests on.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    n: int
    low: float
    high: float


class Comparison(NamedTuple):
    """A two-sided paired test of after against before.

    Attributes:
        test: the test's name, to be read by people.
        p: p-value; 1 when nothing changed, NaN without examples.
        effect: positive when after is larger; its unit is the test's (see ``compare_paired``).
    """

    test: str
    p: float
    effect: float


def rate_interval(hits: ArrayLike, counts: ArrayLike, groups: Iterable[Hashable] | None = None) -> Estimate:
    """A rate over examples with several samples each, with a Wilson interval for clustered data.

    The value is the mean over examples of ``hits / counts``: every example weighs the same. The interval is Wilson's
    with an effective sample size (Korn & Graubard 1998; Dean & Pagano 2015): ``p (1 - p) / Var(p)``, where the variance
    is the linearised one between groups and the size is scaled by ``(t[n - 1] / t[groups - 1])^2`` for few groups. It
    is capped between what fully dependent groups would give (their number, when they are equally large) and the number
    of samples. At p = 0 or 1 the variance says nothing, and the number of examples is taken.

    Args:
        hits: hits per example, 0 to its count.
        counts: samples per example; examples with none are left out.
        groups: a label per example; default: each is its own.

    >>> estimate = rate_interval(hits=[1, 1, 1, 0], counts=[1, 1, 1, 1])
    >>> estimate.value, estimate.n, round(estimate.low, 4), round(estimate.high, 4)
    (0.75, 4, 0.3006, 0.9544)
    """
    hit, count = _vectors(hits, counts)
    if np.any((hit < 0) | (count < 0) | (hit > count)):
        raise ValueError("every example needs 0 <= hits <= counts")
    codes = _codes(groups, len(hit))
    kept = np.isfinite(hit) & np.isfinite(count) & (count > 0)
    if not kept.any():
        return Estimate(math.nan, 0, math.nan, math.nan)
    hit, count = hit[kept], count[kept]
    rates, samples = hit / count, float(count.sum())
    # Summing what is not rounded keeps "every sample hit" exactly 1.
    value = float(rates.mean()) if 0 < hit.sum() < samples else float(hit.sum() > 0)
    low, high = _wilson(value, _effective_size(rates, value, samples, codes[kept]))
    return Estimate(value, int(samples), low, high)


def _effective_size(rates: Floats, value: float, samples: float, codes: NDArray[np.intp]) -> float:
    """How many independent samples would tell as much about ``value``."""
    if value in (0.0, 1.0):
        return float(len(rates))
    members = _group_sums(np.ones(len(rates)), codes)
    number = len(members)
    least = len(rates) ** 2 / float(np.sum(members**2))
    if number == 1:
        return least
    residuals = _group_sums(rates - value, codes)
    variance = number / (number - 1) * float(np.sum(residuals**2)) / len(rates) ** 2
    if variance == 0:
        return samples
    size = value * (1 - value) / variance * (_t_quantile(samples - 1) / _t_quantile(number - 1)) ** 2
    return min(max(size, least), samples)


def _wilson(value: float, size: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion of ``size`` samples; ``size`` need not be whole."""
    z = _NORMAL.inv_cdf((1 + _CONFIDENCE) / 2)
    center = (value + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * math.sqrt(value * (1 - value) / size + (z / (2 * size)) ** 2)
    # Rounding must not move the ends off 0 and 1, nor past the value.
    low = 0.0 if value == 0 else max(0.0, center - half)
    return low, 1.0 if value == 1 else min(1.0, center + half)


def _t_quantile(degrees: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + _CONFIDENCE) / 2))


def mean_interval(
    values: ArrayLike,
    groups: Iterable[Hashable] | None = None,
    seed: int = 0,
    weights: ArrayLike | None = None,
) -> Estimate:
    """The mean over examples of unbounded or continuous values, with a bootstrap interval.

    Bias-corrected and accelerated (BCa, Efron 1987), 2000 resamples of whole groups; seeded, so the same data always
    gives the same interval. With one group the ends are NaN; when all groups agree they equal the value.

    Args:
        values: one per example.
        groups: a label per example; default: each is its own.
        seed: of the resamples.
        weights: of the examples, above 0 (their numbers of tokens, say); default: all alike.

    >>> mean_interval([2.0, 2.0, float("nan")])
    Estimate(value=2.0, n=2, low=2.0, high=2.0)
    >>> mean_interval([1.0, 4.0], weights=[3, 1]).value
    1.75
    """
    value = _vectors(values)[0]
    value, weight = _vectors(value, np.ones(len(value)) if weights is None else weights)
    kept = ~np.isnan(value)
    codes = _codes(groups, len(value))[kept]
    value, weight = value[kept], weight[kept]
    mean = float(np.average(value, weights=weight)) if len(value) else math.nan
    sums, members = _group_sums(value * weight, codes), _group_sums(weight, codes)
    if not np.all(np.isfinite(value)) or len(sums) < 2:
        return Estimate(mean, len(value), math.nan, math.nan)
    low, high = _bca(sums, members, seed)
    return Estimate(mean, len(value), low, high)


def _bca(sums: Floats, members: Floats, seed: int) -> tuple[float, float]:
    """BCa interval of ``sums.sum() / members.sum()``, resampling the groups."""
    estimate = sums.sum() / members.sum()
    drawn = np.random.default_rng(seed).integers(len(sums), size=(_RESAMPLES, len(sums)), dtype=np.int32)
    resampled = np.sort(sums[drawn].sum(axis=1) / members[drawn].sum(axis=1))  # [resamples]
    if np.ptp(resampled) <= 1e-12 * max(1.0, abs(estimate)):
        return float(estimate), float(estimate)
    left_out = (sums.sum() - sums) / (members.sum() - members)  # [groups]
    deviation = left_out.mean() - left_out
    spread = float(np.sum(deviation**2)) ** 1.5
    acceleration = float(np.sum(deviation**3)) / (6 * spread) if spread else 0.0
    # Ties count half, so that few groups with equal values do not look biased.
    below = (np.mean(resampled < estimate) + np.mean(resampled <= estimate)) / 2
    bias = _NORMAL.inv_cdf(float(np.clip(below, 1 / _RESAMPLES, 1 - 1 / _RESAMPLES)))
    tails = [bias + _NORMAL.inv_cdf(q) for q in ((1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2)]
    levels = [_NORMAL.cdf(bias + tail / (1 - acceleration * tail)) for tail in tails]
    low, high = np.quantile(resampled, levels)
    return float(low), float(high)


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

    Args:
        before: a value per example.
        after: a value per example, in the same order; pairs with a NaN are left out.
        groups: a label per example; default: each is its own.
        kind: "binary" insists on 0 and 1, "rate" allows them, "real" never takes them for outcomes.
        group_name: what a group is, for the test's name.

    >>> compare_paired([0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1], kind="binary")
    Comparison(test='exact McNemar', p=0.0625, effect=0.8333333333333334)
    """
    first, second, codes = _pairs(before, after, groups)
    outcomes = bool(np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all())
    if kind == "binary" and not outcomes:
        raise ValueError("kind 'binary' needs values of 0 and 1; use 'rate' or 'real' for others")
    if len(np.unique(codes)) < len(codes):
        p = _sign_flip_p(second - first, codes, seed=0)
        return Comparison(f"paired sign-flip by {group_name}", p, float(np.mean(second - first)))
    return _mcnemar(first, second) if outcomes and kind != "real" else _wilcoxon(first, second)


def _mcnemar(before: Floats, after: Floats) -> Comparison:
    name = "exact McNemar"
    gained, lost = int(np.sum(after > before)), int(np.sum(after < before))
    if not len(before):
        return Comparison(name, math.nan, math.nan)
    if gained + lost == 0:
        return Comparison(name, 1.0, 0.0)
    from statsmodels.stats.contingency_tables import mcnemar

    p = float(mcnemar([[0, gained], [lost, 0]], exact=True).pvalue)
    return Comparison(name, p, (gained - lost) / len(before))


def _wilcoxon(before: Floats, after: Floats) -> Comparison:
    name = "Wilcoxon signed-rank"
    if not len(before):
        return Comparison(name, math.nan, math.nan)
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
    totals = _group_sums(difference, codes)
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
    first, second = _vectors(before, after)
    codes = _codes(groups, len(first))
    kept = ~(np.isnan(first) | np.isnan(second))
    return first[kept], second[kept], codes[kept]


def _vectors(*values: ArrayLike) -> list[Floats]:
    vectors = [np.asarray(value, dtype=np.float64) for value in values]
    shapes = [vector.shape for vector in vectors]
    if vectors[0].ndim != 1 or len(set(shapes)) > 1:
        raise ValueError(f"need one value per example, in vectors of one length; got shapes {shapes}")
    return vectors


def _codes(groups: Iterable[Hashable] | None, length: int) -> NDArray[np.intp]:
    """Labels of any hashable kind as whole numbers."""
    if groups is None:
        return np.arange(length)
    numbers: dict[Hashable, int] = {}
    codes = [numbers.setdefault(group, len(numbers)) for group in groups]
    if len(codes) != length:
        raise ValueError(f"need one group per example; got {len(codes)} groups for {length} examples")
    return np.asarray(codes, dtype=np.intp)


def _group_sums(values: Floats, codes: NDArray[np.intp]) -> Floats:
    _, dense = np.unique(codes, return_inverse=True)
    return np.asarray(np.bincount(dense, weights=values), dtype=np.float64)

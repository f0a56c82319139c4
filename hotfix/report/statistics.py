"""Intervals over per-example values; numpy in, named tuples out.

An example is one prompt or one pair. Examples of one group (say the contexts of one rule) are not independent, so
intervals take the groups; without groups every example is its own. Undefined values (NaN) are left out.

References:
    Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    Korn & Graubard 1998, "Confidence intervals for proportions with small expected number of positive counts
        estimated from survey data" (effective sample size).
    Dean & Pagano 2015, "Evaluating confidence interval methods for binomial proportions in clustered surveys".
    Efron 1987, "Better bootstrap confidence intervals" (BCa).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hotfix.report.arrays import Floats, group_codes, group_sums, vectors

__all__ = ["CONFIDENCE", "Estimate", "mean_interval", "rate_interval"]


_NORMAL: Final = NormalDist()
CONFIDENCE: Final = 0.95
_RESAMPLES: Final = 2000


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
    hit, count = vectors(hits, counts)
    if np.any((hit < 0) | (count < 0) | (hit > count)):
        raise ValueError("every example needs 0 <= hits <= counts")
    codes = group_codes(groups, len(hit))
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
    members = group_sums(np.ones(len(rates)), codes)
    number = len(members)
    least = len(rates) ** 2 / float(np.sum(members**2))
    if number == 1:
        return least
    residuals = group_sums(rates - value, codes)
    variance = number / (number - 1) * float(np.sum(residuals**2)) / len(rates) ** 2
    if variance == 0:
        return samples
    size = value * (1 - value) / variance * (_t_quantile(samples - 1) / _t_quantile(number - 1)) ** 2
    return min(max(size, least), samples)


def _wilson(value: float, size: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion of ``size`` samples; ``size`` need not be whole."""
    z = _NORMAL.inv_cdf((1 + CONFIDENCE) / 2)
    center = (value + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * math.sqrt(value * (1 - value) / size + (z / (2 * size)) ** 2)
    # Rounding must not move the ends off 0 and 1, nor past the value.
    low = 0.0 if value == 0 else max(0.0, center - half)
    return low, 1.0 if value == 1 else min(1.0, center + half)


def _t_quantile(degrees: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))


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
    value = vectors(values)[0]
    value, weight = vectors(value, np.ones(len(value)) if weights is None else weights)
    kept = ~np.isnan(value)
    codes = group_codes(groups, len(value))[kept]
    value, weight = value[kept], weight[kept]
    mean = float(np.average(value, weights=weight)) if len(value) else math.nan
    sums, members = group_sums(value * weight, codes), group_sums(weight, codes)
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
    tails = [bias + _NORMAL.inv_cdf(q) for q in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)]
    levels = [_NORMAL.cdf(bias + tail / (1 - acceleration * tail)) for tail in tails]
    low, high = np.quantile(resampled, levels)
    return float(low), float(high)

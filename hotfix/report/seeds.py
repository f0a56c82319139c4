"""Several seeds of one recipe taken together: examples and seeds both vary, and an interval has to cover both.

References:
    Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2): rows and columns of a crossed design are
        resampled independently; never too narrow on average, slightly wide.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hotfix.report.statistics import Estimate, rate_interval

__all__ = ["crossed_interval", "seed_interval"]

_CONFIDENCE: Final = 0.95
_RESAMPLES: Final = 2000


def crossed_interval(values: ArrayLike, groups: Sequence[Hashable], rate: bool = False, seed: int = 0) -> Estimate:
    """The mean over examples and seeds, with a percentile interval of the pigeonhole bootstrap (Owen 2007).

    Seeds and groups of examples are drawn with replacement, independently, 2000 times. A rate of exactly 0 or 1 has no
    spread to resample; it gets Wilson's interval over the examples.

    Args:
        values: float ``[S, N]``, a row a seed, a column an example; NaN where an example has no value.
        groups: a label an example; examples of one group are drawn together.
        rate: whether the values are shares, 0 to 1.
        seed: of the resampling.

    Returns:
        Mean, number of examples, and the ends; NaN ends with a single group.

    >>> crossed_interval([[1.0, 1.0], [1.0, 1.0]], ["a", "b"], rate=False)
    Estimate(value=1.0, n=2, low=1.0, high=1.0)
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(groups):
        raise ValueError(f"need a row a seed and a column an example; got shape {table.shape}, {len(groups)} groups")
    known = np.isfinite(table)
    if not known.any():
        return Estimate(math.nan, 0, math.nan, math.nan)
    value, n = float(table[known].mean()), int(known.any(axis=0).sum())
    if rate and value in (0.0, 1.0):
        flat = rate_interval(np.where(known, table, 0.0).sum(axis=0), known.sum(axis=0), groups)
        return Estimate(value, n, flat.low, flat.high)
    sums, counts = _by_group(np.where(known, table, 0.0), groups), _by_group(known.astype(np.float64), groups)
    if sums.shape[1] == 1:
        return Estimate(value, n, math.nan, math.nan)
    return Estimate(value, n, *_ends(sums, counts, np.random.default_rng(seed)))


def seed_interval(values: Sequence[float]) -> Estimate:
    """The mean over seeds with Student's t interval, where nothing but each seed's value is known.

    >>> seed_interval([0.25]).low
    nan
    >>> round(seed_interval([0.2, 0.3]).high, 3)
    0.885
    """
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return Estimate(math.nan, 0, math.nan, math.nan)
    mean = float(np.mean(known))
    if len(known) == 1:
        return Estimate(mean, 1, math.nan, math.nan)
    from scipy.special import stdtrit

    half = float(stdtrit(len(known) - 1, (1 + _CONFIDENCE) / 2)) * float(np.std(known, ddof=1)) / math.sqrt(len(known))
    return Estimate(mean, len(known), mean - half, mean + half)


def _by_group(table: NDArray[np.float64], groups: Sequence[Hashable]) -> NDArray[np.float64]:
    """Sums over the examples of each group, ``[S, G]``."""
    places: dict[Hashable, int] = {}
    codes = np.array([places.setdefault(group, len(places)) for group in groups])
    summed = np.zeros((table.shape[0], len(places)))
    for row, values in zip(summed, table, strict=True):
        row += np.bincount(codes, weights=values, minlength=len(places))
    return summed


def _ends(
    sums: NDArray[np.float64], counts: NDArray[np.float64], generator: np.random.Generator
) -> tuple[float, float]:
    seeds, number = sums.shape
    # How often each seed and each group is drawn: multiplying counts is resampling both ways.
    rows = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=_RESAMPLES)  # [resamples, S]
    columns = generator.multinomial(number, np.full(number, 1 / number), size=_RESAMPLES)  # [resamples, G]
    total = np.einsum("rs,sg,rg->r", rows, sums, columns, optimize=True)
    weight = np.einsum("rs,sg,rg->r", rows, counts, columns, optimize=True)
    drawn = total[weight > 0] / weight[weight > 0]
    low, high = np.quantile(drawn, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)

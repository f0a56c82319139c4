"""Two ways to do the same work, timed in turn: on a shared machine only their ratio, pair by pair, says anything."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

__all__ = ["Finding", "alternate", "compare", "seconds", "timed"]

_RESAMPLES = 2_000


@dataclass(frozen=True)
class Finding:
    """One line of the benchmark.

    Attributes:
        name: what was measured.
        unit: of `ours` and `peer`.
        ours: median.
        peer: median; None where a limit stands in place of a peer.
        ratio: how many times better, the median over the repeats.
        low: lower end of the ratio's 95% interval (bootstrap of the median over the repeats).
        high: upper end.
        target: the least ratio that is good enough; None where it is told for information.
        repeats: how often both were run.
        note: what was checked to be equal, or what the work is.
    """

    name: str
    unit: str
    ours: float
    peer: float | None
    ratio: float
    low: float
    high: float
    target: float | None
    repeats: int
    note: str

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.target is None or self.ratio >= self.target

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        return {**asdict(self), "met": self.met}


def seconds(work: Callable[[], object]) -> float:
    """Return how long some work takes, wall clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(
    name: str,
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    target: float | None,
    repeats: int,
    amount: float = 1.0,
    unit: str = "s",
    note: str = "",
) -> Finding:
    """Time both in turn, each first half the times; the first run of each is a warm-up.

    Args:
        name: of the line.
        ours: our way.
        peer: the other way.
        target: the least good ratio.
        repeats: how often both are timed.
        amount: of work in one run; with a `unit` such as `rows/s` the line shows it by the second.
        unit: `s`, or what `amount` is in by the second.
        note: told behind the numbers.
    """
    times = alternate(ours, peer, repeats)
    return timed(name, times, target=target, amount=amount, unit=unit, note=note)


def alternate(ours: Callable[[], object], peer: Callable[[], object], repeats: int) -> list[tuple[float, float]]:
    """Return the seconds of both, ours first, of runs in turn; a run of each before them is not counted."""
    ours()
    peer()
    times: list[tuple[float, float]] = []
    for repeat in range(repeats):
        if repeat % 2:
            other = seconds(peer)
            times.append((seconds(ours), other))
        else:
            own = seconds(ours)
            times.append((own, seconds(peer)))
    return times


def timed(
    name: str,
    times: Sequence[tuple[float, float]],
    *,
    target: float | None,
    amount: float = 1.0,
    unit: str = "s",
    note: str = "",
) -> Finding:
    """Return the line of some pairs of times, ours first.

    >>> found = timed("x", [(1.0, 2.0), (1.0, 4.0), (2.0, 6.0)], target=2.0)
    >>> found.ratio, found.low, found.high, found.met
    (3.0, 2.0, 4.0, True)
    """
    ratios = [peer / own for own, peer in times]
    draw = random.Random(0)
    medians = sorted(median(draw.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
    own, peer = (median(column) for column in zip(*times, strict=True))
    if unit != "s":
        own, peer = amount / own, amount / peer
    low, high = medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES)]
    return Finding(name, unit, own, peer, median(ratios), low, high, target, len(times), note)

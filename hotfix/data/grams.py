"""Runs of n lexemes as numbers, to find text that comes again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Codes", "Grams", "Match", "near_duplicates", "near_pairs"]

Codes: TypeAlias = NDArray[np.uint64]
"""Distinct n-grams as numbers, ascending."""

_LEXEME = re.compile(r"[^\W\d]\w*|\d+|[^\w\s]")
# Knuth's multiplicative constant, odd: products of it wrap around without losing information.
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class Match(NamedTuple):
    """Text number `text` of one list is nearly number `other` of another; `similarity` is between 0 and 1."""

    text: int
    other: int
    similarity: float


class Grams:
    """Turns texts into the set of their n-grams, whitespace aside; only codes of one instance may be compared.

    Args:
        n: lexemes of a gram.

    >>> grams = Grams(2)
    >>> len(grams("a = b + c")), len(np.intersect1d(grams("a = b + c"), grams("x; a=b+d")))
    (4, 3)
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self._numbers: dict[str, int] = {}

    def __call__(self, text: str) -> Codes:
        """Return the distinct grams, ascending, uint64 [G]; a shorter text is one gram."""
        numbers = self._numbers
        known = [numbers.setdefault(lexeme, len(numbers) + 1) for lexeme in _LEXEME.findall(text)]
        # Zeros stand for nothing: they make a short text one gram.
        ids = np.array(known + [0] * (self.n - len(known)), dtype=np.uint64)
        codes = np.zeros(len(ids) - self.n + 1, dtype=np.uint64)
        with np.errstate(over="ignore"):
            for k in range(self.n):
                codes = (codes ^ ids[k : k + len(codes)]) * _FACTOR
                codes ^= codes >> np.uint64(29)
        return np.unique(codes)


def near_duplicates(texts: Sequence[str], others: Sequence[str], threshold: float = 0.8, n: int = 5) -> list[Match]:
    """Find each text's nearest in another list, where it is near enough.

    Nearness is the Jaccard similarity of the sets of n-grams. All matches are found: two sets whose similarity is at
    least t share one of the rarest `|A| - ceil(t |A|) + 1` grams of A (Chaudhuri et al. 2006, prefix filter), so only
    sets that do are compared.

    Args:
        texts: one list.
        others: the other.
        threshold: least similarity.
        n: lexemes of a gram.

    >>> near_duplicates(["x = f(a, b, c)"], ["y = 1", "x = f(a, b, c);"], threshold=0.7)
    [Match(text=0, other=1, similarity=0.8571428571428571)]
    """
    if not texts or not others:
        return []
    grams = Grams(n)
    sets = _by_rarity([grams(text) for text in (*texts, *others)])
    mine, theirs = sets[: len(texts)], sets[len(texts) :]
    index: dict[int, list[int]] = {}
    for number, ranks in enumerate(theirs):
        for rank in _prefix(ranks, threshold):
            index.setdefault(rank, []).append(number)
    found = []
    for number, ranks in enumerate(mine):
        candidates = {other for rank in _prefix(ranks, threshold) for other in index.get(rank, ())}
        near = [(_similarity(ranks, theirs[other]), -other) for other in candidates]
        if near and max(near)[0] >= threshold:
            similarity, other = max(near)
            found.append(Match(number, -other, similarity))
    return found


def near_pairs(texts: Sequence[str], threshold: float = 0.8, n: int = 5) -> list[Match]:
    """Find all pairs within one list that are near enough, in the sense of `near_duplicates`; `other < text`.

    >>> [(m.text, m.other) for m in near_pairs(["f(a, b, c)", "g()", "f(a, b, c);", "f (a,b,c)"], 0.7, n=3)]
    [(2, 0), (3, 0), (3, 2)]
    """
    if not texts:
        return []
    grams = Grams(n)
    index: dict[int, list[int]] = {}
    found = []
    sets = _by_rarity([grams(text) for text in texts])
    for number, ranks in enumerate(sets):
        prefix = _prefix(ranks, threshold)
        for other in sorted({other for rank in prefix for other in index.get(rank, ())}):
            # A set of more than 1 / threshold times the other's size can't be near it.
            if threshold * max(len(ranks), len(sets[other])) <= min(len(ranks), len(sets[other])):
                similarity = _similarity(ranks, sets[other])
                if similarity >= threshold:
                    found.append(Match(number, other, similarity))
        for rank in prefix:
            index.setdefault(rank, []).append(number)
    return found


def _by_rarity(sets: Sequence[Codes]) -> list[NDArray[np.int64]]:
    """Number the grams so that rarer ones have smaller numbers, and sort each set by them."""
    _, place, counts = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    parts = np.split(rank[place], np.cumsum([len(codes) for codes in sets])[:-1])
    return [np.sort(part) for part in parts]


def _prefix(ranks: NDArray[np.int64], threshold: float) -> list[int]:
    # A little is taken off the product: 0.8 * 5 must not be rounded up to 5.
    least = int(np.ceil(threshold * len(ranks) - 1e-9))
    prefix: list[int] = ranks[: len(ranks) - least + 1].tolist()
    return prefix


def _similarity(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)

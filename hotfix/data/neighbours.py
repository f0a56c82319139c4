"""Which texts lie nearest to which, by the words that they share; no model is needed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

__all__ = ["Neighbour", "nearest", "tf_idf", "words"]

_LEXEME = re.compile(r"[A-Za-z]+|\d+|[^\w\s]")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
# Rows of the dense product at a time: 256 texts by 100,000 others are 200 MB.
_ROWS = 256


class Neighbour(NamedTuple):
    """Number of a text in its list, and the cosine between the two, 0 to 1."""

    number: int
    similarity: float


def words(text: str) -> list[str]:
    """Return the words of prose or code, in lower case; names are split at humps and underscores.

    >>> words("Sort myList, by_key")
    ['sort', 'my', 'list', ',', 'by', 'key']
    """
    return [part.lower() for lexeme in _LEXEME.findall(text) for part in _CAMEL.split(lexeme)]


def tf_idf(texts: Sequence[str]) -> csr_array:
    """Return each text's vector, of length 1: (1 + ln count) ln((1 + N) / (1 + texts with it)) + 1 a word.

    Salton and Buckley 1988, with sublinear counts and smoothed inverse frequencies. A text without words is all zeros.

    Args:
        texts: N texts.

    Returns:
        [N, W], W the number of distinct words.
    """
    counts = [Counter(words(text)) for text in texts]
    found = Counter(word for count in counts for word in count)
    column = {word: number for number, word in enumerate(found)}
    rare = np.log((1 + len(texts)) / (1 + np.array(list(found.values()), dtype=np.float64))) + 1
    values: list[float] = []
    columns: list[int] = []
    starts = [0]
    for count in counts:
        own = np.array([column[word] for word in count], dtype=np.int64)
        weights = (1 + np.log(np.array(list(count.values()), dtype=np.float64))) * rare[own]
        values.extend(weights / np.sqrt((weights**2).sum()) if len(own) else weights)
        columns.extend(own.tolist())
        starts.append(len(columns))
    return csr_array((np.array(values), np.array(columns, dtype=np.int64), starts), shape=(len(texts), len(column)))


def nearest(
    texts: Sequence[str], others: Sequence[str], count: int = 5, below: float = np.inf
) -> list[list[Neighbour]]:
    """Return the `count` nearest of `others` to each text, the nearest first, the earlier of two that are as near.

    Args:
        texts: N texts.
        others: where to look.
        count: how many; fewer where there are fewer others.
        below: leave out what is as near as that or nearer.

    Returns:
        N lists.

    >>> [[n.number for n in found] for found in nearest(["sort a list"], ["ping a host", "sort the list", "a"], 2)]
    [[1, 2]]
    """
    if not texts or not others:
        return [[] for _ in texts]
    vectors = tf_idf([*others, *texts])
    theirs, mine = vectors[: len(others)].T.tocsc(), vectors[len(others) :]
    found: list[list[Neighbour]] = []
    for start in range(0, len(texts), _ROWS):
        product: NDArray[np.float64] = (mine[start : start + _ROWS] @ theirs).toarray()
        found += [_best(row, count, below) for row in product]
    return found


def _best(similarity: NDArray[np.float64], count: int, below: float) -> list[Neighbour]:
    """The highest of them; rounded, so that the order of a sum does not decide between equals."""
    rounded = np.round(similarity, 9)
    rounded[rounded >= below] = -1
    order = np.argsort(-rounded, kind="stable")[:count]
    return [Neighbour(int(number), float(rounded[number])) for number in order if rounded[number] >= 0]

"""Which edits an editor may learn from and which measure it: what is nearly the same stays together.

A trained editor that has seen a paraphrase of a measured edit, or its answer, is measured on its memory. So edits are
linked where they have a group, a target or nearly a prompt or target in common, and what is linked, however far along
the chain, goes to one side whole.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from hotfix.data.edit_rows import EditRow
from hotfix.data.grams import near_pairs
from hotfix.data.splits import assign
from hotfix.types import Split

__all__ = ["Fold", "by_fold", "by_fractions", "linked"]

Fold = Literal[0, 1]
_LEAST = 0.7
_GRAM = 3


def linked(rows: Sequence[EditRow]) -> list[str]:
    """Return the name of each row's chain of linked rows, which depends neither on their order nor on the other rows.

    >>> rows = [EditRow("1", "list files", "ls"), EditRow("2", "show files", "LS "), EditRow("3", "who am I", "whoami")]
    >>> names = linked(rows)
    >>> names[0] == names[1] != names[2]
    True
    """
    leader = list(range(len(rows)))

    def find(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    for a, b in _links(rows):
        leader[find(a)] = find(b)
    names: dict[int, str] = {}
    for number, row in enumerate(rows):
        own = _digest(f"{row.prompt}\0{row.target}")
        root = find(number)
        names[root] = min(names.get(root, own), own)
    return [names[find(number)] for number in range(len(rows))]


def by_fractions(
    rows: Sequence[EditRow], fractions: tuple[float, float, float] = (0.8, 0.1, 0.1), seed: int = 0
) -> list[Split]:
    """Return each row's split, by a hash: rows that are added later move none that they are not linked with.

    Args:
        rows: the rows.
        fractions: part of train, validation and test.
        seed: another number deals anew.
    """
    return [assign(name, fractions, seed) for name in linked(rows)]


def by_fold(rows: Sequence[EditRow], fold: Fold, seed: int = 0, validation: float = 0.0) -> list[Split]:
    """Return each row's split of two halves, which are as large as the chains of linked rows allow.

    Args:
        rows: the rows.
        fold: which half is tested; the other trains. The two folds together test every row once.
        seed: another number deals anew.
        validation: part of the training half that validates instead.

    >>> rows = [EditRow(str(i), f"the {i}", f"f({i})") for i in range(4)]
    >>> [a == b for a, b in zip(by_fold(rows, 0), by_fold(rows, 1))]
    [False, False, False, False]
    """
    names = linked(rows)
    order = sorted(Counter(names).items(), key=lambda item: _digest(f"{seed}/{item[0]}"))
    sizes = [0, 0]
    half: dict[str, int] = {}
    for name, count in order:
        half[name] = int(sizes[1] < sizes[0])
        sizes[half[name]] += count
    rest: tuple[float, float, float] = (1 - validation, validation, 0.0)
    return ["test" if half[name] == fold else assign(name, rest, seed) for name in names]


def _links(rows: Sequence[EditRow]) -> Iterator[tuple[int, int]]:
    first: dict[tuple[str, str], int] = {}
    for number, row in enumerate(rows):
        for kind, text in (("group", row.group), ("prompt", row.prompt), ("target", row.target)):
            key = (kind, " ".join(text.lower().split()))
            if key[1]:
                yield number, first.setdefault(key, number)
    for texts in ([row.prompt for row in rows], [row.target for row in rows]):
        yield from ((match.text, match.other) for match in near_pairs(texts, _LEAST, _GRAM))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

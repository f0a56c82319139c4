"""Two halves that share nothing that is nearly the same, whatever the order of the rows."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from hotfix.data.edit_rows import EditRow
from hotfix.data.edit_splits import by_fold, by_fractions, linked
from hotfix.data.grams import Grams, near_pairs


def rows(count: int, seed: int = 0) -> list[EditRow]:
    """Rows of which many are near others, by chance."""
    generator = random.Random(seed)
    words = ["read", "write", "sort", "list", "file", "name", "line", "word", "open", "close"]

    def text(k: int) -> str:
        return " ".join(generator.choice(words) for _ in range(k))

    made = [EditRow(str(i), text(7), text(9)) for i in range(count)]
    for i in range(0, count, 5):
        other = made[generator.randrange(count)]
        made[i] = EditRow(str(i), other.prompt + " now", made[i].target)
    return made


def near(a: str, b: str) -> bool:
    """The definition, set by set."""
    grams = Grams(3)
    first, second = set(grams(a).tolist()), set(grams(b).tolist())
    return len(first & second) / len(first | second) >= 0.7


def chains(found: list[EditRow]) -> set[frozenset[str]]:
    """Linked rows by comparing every pair, and joining until nothing changes."""
    sets = [{row.id} for row in found]
    for a in found:
        for b in found:
            same = a.target.lower().split() == b.target.lower().split() or (a.group and a.group == b.group)
            if same or near(a.prompt, b.prompt) or near(a.target, b.target):
                mine, theirs = (next(s for s in sets if row.id in s) for row in (a, b))
                if mine is not theirs:
                    mine |= theirs
                    sets.remove(theirs)
    return {frozenset(s) for s in sets}


@pytest.mark.parametrize("seed", range(3))
def test_links_are_those_of_comparing_every_pair(seed: int) -> None:
    found = [*rows(60, seed), EditRow("g1", "un", "deux", group="g"), EditRow("g2", "drei", "vier", group="g")]
    names = linked(found)
    by_name: dict[str, set[str]] = {}
    for name, row in zip(names, found, strict=True):
        by_name.setdefault(name, set()).add(row.id)
    assert {frozenset(s) for s in by_name.values()} == chains(found)
    assert {"g1", "g2"} in by_name.values()
    assert any(len(s) > 1 for s in by_name.values())


def test_near_pairs_are_those_of_comparing_every_pair() -> None:
    texts = [row.prompt for row in rows(80)]
    grams = Grams(3)
    sets = [set(grams(text).tolist()) for text in texts]
    expected = {(i, j) for i in range(80) for j in range(i) if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= 0.5}
    found = near_pairs(texts, 0.5, 3)
    assert {(match.text, match.other) for match in found} == expected
    assert len(found) == len(expected) > 10
    assert near_pairs([]) == []


def test_folds_are_swapped_halves_that_no_chain_is_in_twice() -> None:
    found = rows(200)
    zero, one = by_fold(found, 0), by_fold(found, 1)
    assert dict(zip(zero, one, strict=True)) == {"train": "test", "test": "train"}
    assert abs(Counter(zero)["test"] - 100) <= max(Counter(linked(found)).values())
    where = dict(zip(linked(found), zero, strict=True))
    assert [where[name] for name in linked(found)] == zero


def test_neither_order_nor_process_moves_a_row() -> None:
    found = rows(100)
    mixed = random.Random(1).sample(found, 100)
    for deal in (by_fractions, lambda r: by_fold(r, 0)):
        first = dict(zip((row.id for row in found), deal(found), strict=True))
        assert dict(zip((row.id for row in mixed), deal(mixed), strict=True)) == first
    assert by_fold(found, 0, seed=1) != by_fold(found, 0)


def test_a_part_of_the_training_half_validates() -> None:
    plain, held = by_fold(rows(200), 0), by_fold(rows(200), 0, validation=0.2)
    assert [s == "test" for s in plain] == [s == "test" for s in held]
    assert 5 < Counter(held)["validation"] < 40

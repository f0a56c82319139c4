"""Near-duplicates are exactly those of a comparison of everything with everything."""

from __future__ import annotations

import random
import re
import time

import pytest

from hotfix.data.grams import Grams, Match, near_duplicates

WORDS = ("a", "b", "foo", "(", ")", "=", "+", "1", "22", "é")


def sets(texts: list[str], n: int) -> list[set[tuple[str, ...]]]:
    found = []
    for text in texts:
        words = re.findall(r"[^\W\d]\w*|\d+|[^\w\s]", text)
        found.append({tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))})
    return found


def brute(texts: list[str], others: list[str], threshold: float, n: int) -> list[Match]:
    found = []
    for i, a in enumerate(sets(texts, n)):
        near = [(len(a & b) / len(a | b), -j) for j, b in enumerate(sets(others, n))]
        if near and max(near)[0] >= threshold:
            found.append(Match(i, -max(near)[1], max(near)[0]))
    return found


def some_text(rng: random.Random, most: int = 40) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(0, most)))


def changed(rng: random.Random, text: str) -> str:
    words = text.split()
    for _ in range(rng.randint(0, 2)):
        if words:
            words[rng.randrange(len(words))] = rng.choice(WORDS)
    return "  ".join(words)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(12))
def test_all_matches_are_found(seed: int, threshold: float) -> None:
    rng = random.Random(seed)
    others = [some_text(rng) for _ in range(30)]
    texts = [changed(rng, rng.choice(others)) if rng.random() < 0.7 else some_text(rng) for _ in range(30)]
    expected = brute(texts, others, threshold, 5)
    assert expected
    assert near_duplicates(texts, others, threshold, 5) == expected


def test_empty_lists() -> None:
    assert near_duplicates([], ["a"]) == near_duplicates(["a"], []) == []


def test_layout_does_not_matter_and_order_does() -> None:
    grams = Grams(3)
    assert grams("if (a) {\n\treturn b;\n}").tolist() == grams("if(a){return b;}").tolist()
    assert grams("a b c").tolist() != grams("c b a").tolist()
    assert len(grams("")) == len(grams("a")) == len(grams("a b c")) == 1


def test_thousands_of_rows_take_seconds() -> None:
    rng = random.Random(0)
    shared = some_text(rng, 400)
    texts = [f"{shared} {some_text(rng, 400)} v{i}" for i in range(1000)]
    start = time.process_time()
    near_duplicates(texts[:200], texts[200:])
    assert time.process_time() - start < 10

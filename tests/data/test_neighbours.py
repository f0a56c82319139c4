"""The nearest texts, against a plain computation of the same formula."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from hotfix.data.neighbours import nearest, tf_idf, words


def by_hand(texts: list[str]) -> list[dict[str, float]]:
    """TF-IDF word by word, without arrays."""
    found = []
    for text in texts:
        weights = {
            word: (1 + math.log(count))
            * (math.log((1 + len(texts)) / (1 + sum(word in words(other) for other in texts))) + 1)
            for word, count in Counter(words(text)).items()
        }
        length = math.sqrt(sum(weight**2 for weight in weights.values())) or 1.0
        found.append({word: weight / length for word, weight in weights.items()})
    return found


def texts(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    pool = ["read", "write", "file", "list", "sort_by", "newName", "42", "(", ")"]
    return [" ".join(generator.choices(pool, k=6)) for _ in range(count)]


def test_similarities_are_the_cosines_of_the_formula() -> None:
    mine, others = texts(7, 1), texts(12, 2)
    vectors = by_hand([*others, *mine])
    found = nearest(mine, others, 12)
    for number, near in enumerate(found):
        own = vectors[len(others) + number]
        expected = [sum(v * own.get(w, 0.0) for w, v in vectors[other].items()) for other in range(len(others))]
        assert sorted(n.number for n in near) == list(range(12))
        assert [n.similarity for n in near] == pytest.approx([expected[n.number] for n in near], abs=1e-8)
        assert [n.similarity for n in near] == sorted((n.similarity for n in near), reverse=True)


def test_vectors_have_length_one_and_no_words_are_all_zeros() -> None:
    squares = (tf_idf(["a b b", "", "c"]).toarray() ** 2).sum(axis=1)
    assert squares.tolist() == pytest.approx([1.0, 0.0, 1.0])


def test_more_texts_than_are_compared_at_once() -> None:
    others = [f"number{'x' * i} only" for i in range(40)]
    found = nearest([others[i % 40] for i in range(600)], others, 1)
    assert [near[0].number for near in found] == [i % 40 for i in range(600)]


def test_of_equals_the_earlier_comes_first() -> None:
    assert [n.number for n in nearest(["a b"], ["c", "b a", "a b", "b a"], 3)[0]] == [1, 2, 3]


def test_what_is_too_near_is_left_out() -> None:
    others = ["sort the list", "sort a list", "ping"]
    assert [n.number for n in nearest(["sort a list"], others, 3, below=0.99)[0]] == [0, 2]
    assert nearest(["sort a list"], ["sort a list"], 3, below=0.99) == [[]]


def test_nothing_to_look_at() -> None:
    assert nearest([], ["a"]) == []
    assert nearest(["a"], []) == [[]]

"""Changed stretches rebuild the other text, and marks are what a search through every character says."""

from __future__ import annotations

import random
import re
from difflib import SequenceMatcher
from itertools import combinations, pairwise

import pytest

from hotfix.data.diff import (
    Hunk,
    align_spans,
    common_prefix_length,
    diff_text,
    edited_tokens,
    keeps_order,
    widen,
    widen_spans,
)

ALPHABET = ("a", "b1", " ", "  ", "12", "(", ")", ".", "é", "日", "\n", "\r\n", "_x")
SEEDS = range(300)


def text(rng: random.Random, most: int = 8) -> str:
    return "".join(rng.choice(ALPHABET) for _ in range(rng.randint(0, most)))


def cuts(rng: random.Random, length: int) -> list[tuple[int, int]]:
    """Tokens that tile a text, at random."""
    places = sorted({0, length, *(rng.randrange(length + 1) for _ in range(length // 2))})
    return list(pairwise(places))


@pytest.mark.parametrize("seed", SEEDS)
def test_hunks_rebuild_the_other_text_and_keep_all_else(seed: int) -> None:
    rng = random.Random(seed)
    a, b = text(rng), text(rng)
    built, at = "", 0
    for hunk in diff_text(a, b):
        assert (hunk.a_start, hunk.b_start) != (hunk.a_end, hunk.b_end)
        built += a[at : hunk.a_start] + b[hunk.b_start : hunk.b_end]
        at = hunk.a_end
    assert built + a[at:] == b


@pytest.mark.parametrize("seed", SEEDS)
def test_hunks_end_where_lexemes_end(seed: int) -> None:
    rng = random.Random(seed)
    a, b = text(rng), text(rng)
    ends = [{m.end() for m in re.finditer(r"[^\W\d]\w*|\d+|\s+|.", t)} | {0} for t in (a, b)]
    for hunk in diff_text(a, b):
        assert {hunk.a_start, hunk.a_end} <= ends[0]
        assert {hunk.b_start, hunk.b_end} <= ends[1]


def test_equal_texts_have_no_hunk() -> None:
    assert diff_text("f(x)", "f(x)") == []


@pytest.mark.parametrize(
    ("a", "b", "hunks"),
    [
        ("md5", "sha512", [Hunk(0, 3, 0, 6)]),
        ("f(a, b)", "f(c, d)", [Hunk(2, 3, 2, 3), Hunk(5, 6, 5, 6)]),
        ("f()", "f(x)", [Hunk(2, 2, 2, 3)]),
        ("f(x)", "f()", [Hunk(2, 3, 2, 2)]),
        ("x", "x\n", [Hunk(1, 1, 1, 2)]),
        ("", "x", [Hunk(0, 0, 0, 1)]),
        ("größe = 1", "grösse = 1", [Hunk(0, 5, 0, 6)]),
        ("a\r\nb", "a\nb", [Hunk(1, 3, 1, 2)]),
    ],
)
def test_hunks_worked_by_hand(a: str, b: str, hunks: list[Hunk]) -> None:
    assert diff_text(a, b) == hunks


def brute_force(spans: list[tuple[int, int]], offsets: list[tuple[int, int]], shared: int) -> list[bool]:
    """Character by character: a token is edited when it holds a changed character, or follows a removed one."""
    changed = {c for start, end in spans for c in range(start, end)}
    marks = [t >= shared and any(c in changed for c in range(*offsets[t])) for t in range(len(offsets))]
    for start, _ in (span for span in spans if span[0] == span[1]):
        holders = [t for t in range(len(offsets)) if t >= shared and offsets[t][1] > start]
        for t in holders[:1]:
            marks[t] = True
    if shared < len(marks):
        marks[shared] = True
    return marks


@pytest.mark.parametrize("seed", SEEDS)
def test_marks_equal_a_search_through_every_character(seed: int) -> None:
    rng = random.Random(seed)
    a, b = text(rng), text(rng)
    spans = [(hunk.b_start, hunk.b_end) for hunk in diff_text(a, b)]
    offsets = cuts(rng, len(b))
    shared = rng.randint(0, len(offsets))
    assert edited_tokens(spans, offsets, shared) == brute_force(spans, offsets, shared)


def test_a_deletion_at_the_very_end_marks_only_the_parting() -> None:
    assert edited_tokens([(4, 4)], [(0, 2), (2, 4)], shared=1) == [False, True]
    assert edited_tokens([(4, 4)], [(0, 2), (2, 4)], shared=2) == [False, False]


@pytest.mark.parametrize("seed", range(50))
def test_common_prefix_is_the_longest(seed: int) -> None:
    rng = random.Random(seed)
    lists = [[rng.randrange(2) for _ in range(rng.randint(0, 6))] for _ in range(rng.randint(1, 3))]
    expected = max(n for n in range(7) if all(len(x) >= n and x[:n] == lists[0][:n] for x in lists))
    assert common_prefix_length(*lists) == expected


def character_hunks(a: str, b: str) -> list[Hunk]:
    codes = SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    return [Hunk(i, j, k, m) for tag, i, j, k, m in codes if tag != "equal"]


@pytest.mark.parametrize("seed", SEEDS)
def test_spans_of_both_sides_are_put_against_each_other(seed: int) -> None:
    rng = random.Random(seed)
    a, b = text(rng), text(rng)
    hunks = character_hunks(a, b)
    spans_a = [(h.a_start, h.a_end) for h in hunks if h.a_start < h.a_end]
    spans_b = [(h.b_start, h.b_end) for h in hunks if h.b_start < h.b_end]
    assert align_spans(a, b, spans_a, spans_b) == hunks
    assert keeps_order(a, spans_a, b)
    assert keeps_order(b, spans_b, a)


@pytest.mark.parametrize("seed", SEEDS)
def test_widened_hunks_end_at_lexemes_hold_the_old_ones_and_rebuild_the_text(seed: int) -> None:
    rng = random.Random(seed)
    a, b = text(rng), text(rng)
    hunks = character_hunks(a, b)
    wide = widen(a, b, hunks)
    ends = [{m.end() for m in re.finditer(r"[^\W\d]\w*|\d+|\s+|.", t, re.DOTALL)} | {0} for t in (a, b)]
    built, at = "", 0
    for w in wide:
        assert {w.a_start, w.a_end} <= ends[0]
        assert {w.b_start, w.b_end} <= ends[1]
        built += a[at : w.a_start] + b[w.b_start : w.b_end]
        at = w.a_end
    assert built + a[at:] == b
    for h in hunks:
        assert any(
            w.a_start <= h.a_start <= h.a_end <= w.a_end and w.b_start <= h.b_start <= h.b_end <= w.b_end for w in wide
        )
    assert all(x.a_end < y.a_start or x.b_end < y.b_start for x, y in pairwise(wide))


@pytest.mark.parametrize("seed", SEEDS)
def test_widened_spans_are_the_lexemes_that_are_touched(seed: int) -> None:
    rng = random.Random(seed)
    a, b = text(rng), text(rng)
    spans = [(h.a_start, h.a_end) for h in character_hunks(a, b) if h.a_start < h.a_end]
    touched = set()
    for m in re.finditer(r"[^\W\d]\w*|\d+|\s+|.", a, re.DOTALL):
        if any(m.start() < end and start < m.end() for start, end in spans):
            touched |= set(range(*m.span()))
    assert {i for start, end in widen_spans(a, spans) for i in range(start, end)} == touched


@pytest.mark.parametrize(
    ("spans_a", "spans_b"),
    [([(0, 1)], []), ([(2, 1)], []), ([(0, 9)], [(0, 3)]), ([(1, 2), (0, 1)], [(0, 2)]), ([(-1, 0)], [])],
)
def test_spans_that_do_not_fit_are_not_aligned(spans_a: list[tuple[int, int]], spans_b: list[tuple[int, int]]) -> None:
    assert align_spans("abc", "abc", spans_a, spans_b) is None


@pytest.mark.parametrize("seed", range(100))
def test_order_is_kept_where_a_search_finds_it(seed: int) -> None:
    rng = random.Random(seed)
    a, b = "".join(rng.choice("ab") for _ in range(4)), "".join(rng.choice("ab") for _ in range(5))
    start = rng.randrange(5)
    end = rng.randint(start, 4)
    kept = a[:start] + a[end:]
    expected = any("".join(part) == kept for part in combinations(b, len(kept)))
    assert keeps_order(a, [(start, end)], b) == expected

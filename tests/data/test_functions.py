"""Functions with several changes become one pair whose marks are the characters that the data names."""

from __future__ import annotations

import random
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from hotfix.data.diff import Edits, edited_tokens
from hotfix.data.encode import PairEncoder, encode_text
from hotfix.data.functions import Change, Functions, cut_out, function_edits, read_functions
from hotfix.data.schema import CodePair
from hotfix.errors import DataError

WORDS = ("foo", "bar_1", "x", "12", "(", ")", ", ", " = ", "\n", "\n    ", "    ", "\n\t", "é", "'", "ab", "abc")


def changes(text: str, other: str) -> list[Change]:
    """Characters of `text` that `other` has not: one comparison a side, as SVEN's data is made."""
    codes = SequenceMatcher(None, other, text, autojunk=False).get_opcodes()
    return [Change(start, end, text[start:end]) for tag, _, _, start, end in codes if tag in ("insert", "replace")]


def functions(rng: random.Random) -> Functions:
    """Two texts that share most words and differ in several places."""
    while True:
        words = [rng.choice(WORDS) for _ in range(rng.randint(1, 40))]
        other = [rng.choice(WORDS) if rng.random() < 0.15 else word for word in words if rng.random() > 0.08]
        before, after = "".join(words), "".join(other)
        if before != after:
            return Functions(before, after, changes(before, after), changes(after, before))


@pytest.mark.parametrize("seed", range(300))
def test_an_excerpt_is_the_text_again_and_its_edits_hold_every_change(seed: int) -> None:
    given = functions(random.Random(seed))
    edits, trusted = function_edits(given)
    excerpt = cut_out(given.before, given.after, edits)
    assert trusted
    assert excerpt.prefix + excerpt.buggy + excerpt.suffix == given.before
    assert excerpt.prefix + excerpt.fixed + excerpt.suffix == given.after
    for text, own, named in (
        (excerpt.buggy, excerpt.edits.buggy, given.deleted),
        (excerpt.fixed, excerpt.edits.fixed, given.added),
    ):
        begin = len(excerpt.prefix)
        spans = [(start + begin, end + begin) for start, end in own]
        assert all(start <= end <= len(text) for start, end in own)
        assert all(any(a <= c.start and c.end <= b for a, b in spans) for c in named)
        # What is named before the statement stands in both texts alike.
        assert all(given.before[c.start : begin] == given.after[c.start : begin] for c in named if c.start < begin)
    if given.before.strip() and given.after.strip():
        assert excerpt.buggy.strip()
        assert excerpt.fixed.strip()


@pytest.mark.parametrize("seed", range(60))
def test_marked_tokens_are_those_of_the_named_characters(any_tok: PreTrainedTokenizerBase, seed: int) -> None:
    """Beyond those: the rest of a changed lexeme, the token at which the sides part, one behind an empty stretch."""
    given = functions(random.Random(seed))
    edits, _ = function_edits(given)
    excerpt = cut_out(given.before, given.after, edits)
    pair = CodePair("a", *excerpt[:4], edits=excerpt.edits)
    done = PairEncoder(any_tok, max_length=9999, suffix_tokens=9999)(pair)
    for side, text, named, spans in (
        (done.buggy, given.before, given.deleted, edits.buggy),
        (done.fixed, given.after, given.added, edits.fixed),
    ):
        whole = encode_text(any_tok, text if excerpt.suffix else text + "\n")
        bos = len(done.shared) + len(side.ids) - len(whole.ids)
        offsets = [(0, 0)] * bos + whole.offsets
        shared = len(done.shared)
        for t in range(shared, len(offsets)):
            start, end = offsets[t]
            touched = any(c.start < end and start < c.end for c in named)
            widened = any(a < end and start < b for a, b in spans)
            behind = any(a == b and end > a and not any(offsets[u][1] > a for u in range(shared, t)) for a, b in spans)
            assert not touched or side.edited[t - shared]
            assert side.edited[t - shared] == (widened or behind or t == shared)


MULTI = Functions(
    "def f(a):\n    x = md5(a)\n    y = 1\n    return load(x)\n",
    "def f(a):\n    x = sha256(a)\n    y = 1\n    return safe_load(x, y)\n",
    [],
    [],
)


def test_several_changes_are_one_pair_from_the_first_changed_line_to_the_last() -> None:
    edits, trusted = function_edits(MULTI)
    excerpt = cut_out(MULTI.before, MULTI.after, edits)
    assert not trusted
    assert excerpt.prefix == "def f(a):\n    "
    assert excerpt.buggy == "x = md5(a)\n    y = 1\n    return load(x)"
    assert excerpt.suffix == "\n"
    assert [excerpt.buggy[a:b] for a, b in excerpt.edits.buggy] == ["md5", "load", ""]
    assert [excerpt.fixed[a:b] for a, b in excerpt.edits.fixed] == ["sha256", "safe_load", ", y"]


def test_offsets_counted_in_the_other_text_are_not_believed() -> None:
    """The published privacy data counts the offsets of deleted stretches in the text after (defect 4)."""
    shifted = "return load"
    wrong = MULTI.after.index("safe_load")
    row = MULTI._replace(
        deleted=[Change(18, 21, "md5"), Change(wrong, wrong + len(shifted), shifted)],
        added=[Change(18, 24, "sha256"), Change(wrong, wrong + 9, "safe_load"), Change(wrong + 11, wrong + 14, ", y")],
    )
    assert function_edits(row) == (function_edits(MULTI)[0], False)
    unnamed = row._replace(deleted=[c._replace(text=None) for c in row.deleted])
    assert function_edits(unnamed)[1] is False


def test_a_change_at_the_end_of_the_text_is_marked(any_tok: PreTrainedTokenizerBase) -> None:
    """The published masks lose a change that no token follows (defect 5)."""
    given = Functions("a = 1\nreturn x", "a = 1\nreturn y", [Change(13, 14, "x")], [Change(13, 14, "y")])
    excerpt = cut_out(given.before, given.after, function_edits(given)[0])
    done = PairEncoder(any_tok)(CodePair("a", *excerpt[:4], edits=excerpt.edits))
    assert done.fixed.edited[0]
    assert sum(done.fixed.edited) == sum(done.buggy.edited) == 1


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a\nb\n", "a\nx\nb\n", ("a\n", "b", "x\nb", "\n")),
        ("a\nx\nb\n", "a\nb\n", ("a\n", "x\nb", "b", "\n")),
        ("a\nb", "a\nb\nx", ("a\n", "b", "b\nx", "")),
        ("a\n\n  b\n", "a\n  x\n\n  b\n", ("a\n", "\n  b", "  x\n\n  b", "\n")),
        ("", "x", ("", "", "x", "")),
        ("x\n", "y\n", ("", "x", "y", "\n")),
        ("\tif a:\n\t\tb\n", "\tif a:\n\t\tc\n", ("\tif a:\n\t\t", "b", "c", "\n")),
        ("x\n\ta\n", "x\n    b\n", ("x\n", "\ta", "    b", "\n")),
        ("  a\n", "    a\n", ("", "  a", "    a", "\n")),
    ],
)
def test_hand_made_excerpts(before: str, after: str, expected: tuple[str, ...]) -> None:
    edits, _ = function_edits(Functions(before, after, [], []))
    assert cut_out(before, after, edits)[:4] == expected


def test_edits_are_used_instead_of_a_comparison(tiny_tok: PreTrainedTokenizerBase) -> None:
    pair = CodePair("a", "x = ", "abc + 1", "xbc + 1", edits=Edits(((0, 1), (6, 7)), ((0, 1),)))
    done = PairEncoder(tiny_tok)(pair)
    assert done.buggy.edited[:7] == [True, False, False, False, False, False, True]
    assert done.fixed.edited[:7] == [True, *[False] * 6]
    assert edited_tokens([], [(0, 1)], 0) == [True]


def row(**more: Any) -> dict[str, Any]:
    return {"func_src_before": "a", "func_src_after": "b", **more}


@pytest.mark.parametrize("given", [None, {}, {"deleted": [], "added": None}, '{"deleted": []}'])
def test_changes_may_be_missing(given: Any) -> None:
    assert read_functions(row(char_changes=given), Path("p"), 1) == Functions("a", "b", [], [])


def test_changes_may_be_an_object_or_its_text() -> None:
    text = '{"deleted": [{"char_start": 0, "char_end": 1, "chars": "a"}], "added": []}'
    assert read_functions(row(char_changes=text), Path("p"), 1).deleted == [Change(0, 1, "a")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"func_src_after": "b"},
            r"p.jsonl:3: column 'func_src_before' is missing or not text; this row has 'func_src_aft",
        ),
        (row(func_src_after=4), r"column 'func_src_after' is missing or not text"),
        (
            row(char_changes="{"),
            r"p.jsonl:3: column 'char_changes' can't be read \(JSONDecodeError.*expected \{\"deleted\"",
        ),
        (row(char_changes=[1]), r"column 'char_changes' can't be read \(AttributeError"),
        (
            row(char_changes={"added": [{"char_start": 1}]}),
            r"column 'char_changes' can't be read \(KeyError\('char_end'",
        ),
    ],
)
def test_bad_rows_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_functions(given, Path("p.jsonl"), 3)

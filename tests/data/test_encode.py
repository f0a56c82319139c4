"""What is shared, edited and prompted, for the byte tokenizer and for one whose tokens cross the sides' borders."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from hotfix.data.diff import diff_text
from hotfix.data.encode import EncodedPair, PairEncoder, encode_text, statement_ids
from hotfix.data.schema import CodePair
from hotfix.errors import DataError, ModelError

Tok = PreTrainedTokenizerBase
MakePairs = Callable[..., list[CodePair]]

CASES = {
    "two hunks": CodePair("a", "out = ", "f(a, b, key=c)", "f(x, b, key=z)", "\nprint(out)"),
    "insertion": CodePair("a", "r = get(url", ")", ", timeout=5)", "\n"),
    "deletion": CodePair("a", "r = get(url", ", verify=False)", ")", "\n"),
    "buggy begins fixed": CodePair("a", "zip(a, b", ", strict=True", ", strict=True, x=1", "\nz"),
    "fixed begins buggy": CodePair("a", "x = ", "1 + 2", "1", "\nz"),
    "one side empty": CodePair("a", "x = 1", "", "  # noqa", "\ny"),
    "empty prefix": CodePair("a", "", "import md5", "import hashlib", "\n"),
    "empty prefix and suffix": CodePair("a", "", "a", "b"),
    "no suffix": CodePair("a", "x = ", "y.sort()", "sorted(y)"),
    "indented": CodePair("a", "def f():\n    ", "return 1", "return 2", "\n"),
    "indentation only": CodePair("a", "if x:\n    ", "y", "    y", "\n"),
    "unicode": CodePair("a", "größe = '日本", "é'", "e\u0301 🙂'", "\nx"),
    "within a character's bytes": CodePair("a", "x = '", "🙂'", "🙃'", "\n"),
    "line ends": CodePair("a", "a = 1\r\nb = ", "2\r\n", "3\r\n", "c\r\n"),
    "line ends differ": CodePair("a", "a = 1", "\r\n", "\n", "c"),
}


def decode(tok: Tok, ids: list[int]) -> str:
    text = tok.decode(ids, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text.replace("<|end|>", "").replace("<|im_start|>", "").replace("<|endoftext|>", "")


def check(tok: Tok, pair: CodePair, done: EncodedPair) -> None:
    """Everything that holds for any pair that isn't cut."""
    for side, statement in (("fixed", pair.fixed), ("buggy", pair.buggy)):
        branch = getattr(done, side)
        text = pair.prefix + statement + (pair.suffix or "\n")
        whole = encode_text(tok, text).ids
        ids = done.shared + branch.ids
        assert ids in (whole[: len(ids)], [tok.bos_token_id, *whole][: len(ids)]), side
        assert len(branch.edited) == len(branch.ids) >= branch.statement >= 1
        assert branch.edited[0], "the token at which the sides part is edited"
        assert pair.prefix + statement == decode(tok, done.shared + branch.ids)[: len(pair.prefix + statement)]
        # A character of several tokens can't be decoded from a part of them.
        prompt = decode(tok, done.shared[: done.prompt])
        assert prompt + done.residue == pair.prefix or "\ufffd" in prompt
        written = decode(tok, list(statement_ids(done, side)))  # type: ignore[arg-type]
        assert (prompt + written).startswith(pair.prefix + statement) or "\ufffd" in prompt + written
    assert done.fixed.ids[0] != done.buggy.ids[0]
    assert 1 <= done.prompt <= len(done.shared)


@pytest.mark.parametrize("name", CASES)
def test_named_cases(any_tok: Tok, name: str) -> None:
    check(any_tok, CASES[name], PairEncoder(any_tok)(CASES[name]))


@pytest.mark.parametrize("seed", range(8))
def test_random_pairs(any_tok: Tok, make_pairs: MakePairs, seed: int) -> None:
    for pair in make_pairs(25, seed):
        check(any_tok, pair, PairEncoder(any_tok, suffix_tokens=5)(pair))


def byte_marks(pair: CodePair, side: str) -> list[bool]:
    """Edited bytes by hand: those of changed characters, the first behind a removal, the one where the sides part."""
    statement: str = getattr(pair, side)
    hunks = diff_text(pair.buggy, pair.fixed)
    spans = [(h.b_start, h.b_end) if side == "fixed" else (h.a_start, h.a_end) for h in hunks]
    text = pair.prefix + statement + (pair.suffix or "\n")
    owner = [i - len(pair.prefix) for i, letter in enumerate(text) for _ in letter.encode()]
    start = len(shared_bytes(pair))
    marks = [any(a <= i < b for a, b in spans) for i in owner]
    for place, _ in (span for span in spans if span[0] == span[1]):
        behind = [t for t, i in enumerate(owner) if i >= place and t >= start]
        for t in behind[:1]:
            marks[t] = True
    marks[start] = True
    return marks[start:]


def shared_bytes(pair: CodePair) -> bytes:
    sides = [(pair.prefix + s + (pair.suffix or "\n")).encode() for s in (pair.fixed, pair.buggy)]
    return next(sides[0][:n] for n in range(len(sides[0]), -1, -1) if sides[1].startswith(sides[0][:n]))


@pytest.mark.parametrize("seed", range(8))
def test_marks_of_the_byte_tokenizer_by_hand(tiny_tok: Tok, make_pairs: MakePairs, seed: int) -> None:
    for pair in make_pairs(25, seed + 100):
        done = PairEncoder(tiny_tok, suffix_tokens=5)(pair)
        for side in ("fixed", "buggy"):
            branch = getattr(done, side)
            assert branch.edited == byte_marks(pair, side)[: len(branch.ids)], (pair, side)


def test_two_hunks_leave_what_is_between_them_unedited(tiny_tok: Tok) -> None:
    done = PairEncoder(tiny_tok)(CASES["two hunks"])
    kept = [chr(c) for c, e in zip(b"x, b, key=z)\n", done.fixed.edited, strict=False) if not e]
    assert "".join(kept) == ", b, key=)\n"
    assert decode(tiny_tok, done.shared) == "out = f("


def test_a_deletion_marks_the_token_that_takes_its_place(tiny_tok: Tok) -> None:
    done = PairEncoder(tiny_tok)(CASES["deletion"])
    assert done.fixed.edited == [True, False, *[False] * (len(done.fixed.ids) - 2)]
    assert all(done.buggy.edited[: len(", verify=False")])


def test_indentation_that_joins_the_statement_is_residue(any_tok: Tok) -> None:
    done = PairEncoder(any_tok)(CASES["indented"])
    assert "def f():\n    ".endswith(done.residue)
    assert done.residue.strip() == ""


def test_the_prompt_begins_both_sides_and_is_the_prefix_encoded_alone(any_tok: Tok, make_pairs: MakePairs) -> None:
    for pair in make_pairs(40, 7):
        if not pair.prefix:
            continue
        done = PairEncoder(any_tok)(pair)
        alone = encode_text(any_tok, pair.prefix).ids
        prompt = done.shared[: done.prompt]
        assert alone[: len(prompt)] == prompt or prompt == [any_tok.bos_token_id, *alone][: len(prompt)]


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_suffix_tokens_are_kept_behind_the_statement(tiny_tok: Tok, keep: int) -> None:
    done = PairEncoder(tiny_tok, suffix_tokens=keep)(CodePair("a", "x = ", "12", "34", "\nabcdef"))
    assert decode(tiny_tok, done.fixed.ids) == "34" + "\nabcdef"[:keep]
    assert done.fixed.statement == 2


def test_sides_that_only_a_longer_suffix_tells_apart_are_refused(tiny_tok: Tok) -> None:
    pair = CodePair("r7", "x", "", "ab", "ababc", source="f.jsonl:7")
    with pytest.raises(DataError, match=r"^f.jsonl:7: pair 'r7': this tokenizer makes the same tokens of both sides; "
                       r"remove the row, or raise data.init_args.suffix_tokens$"):  # fmt: skip
        PairEncoder(tiny_tok, suffix_tokens=2)(pair)
    assert PairEncoder(tiny_tok, suffix_tokens=5)(pair).fixed.edited[0]


LONG = CodePair("p9", "a = 1\n" * 10 + "b = ", "foo(1)", "bar(22)", "\nrest", source="f.jsonl:9")


def test_an_overlong_pair_is_refused_by_name(tiny_tok: Tok) -> None:
    message = (
        "f.jsonl:9: pair 'p9' has 71 tokens (64 of them prefix), longer than the context of 30; "
        "shorten the prefix, raise data.init_args.max_length, or set data.init_args.overlong to left"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        PairEncoder(tiny_tok, max_length=30)(LONG)


@pytest.mark.parametrize("length", range(10, 75))
def test_cutting_on_the_left_drops_prefix_tokens_only(tiny_tok: Tok, length: int) -> None:
    whole = PairEncoder(tiny_tok, 1000)(LONG)
    done = PairEncoder(tiny_tok, length, overlong="left")(LONG)
    assert whole.shared[-len(done.shared) :] == done.shared
    assert len(whole.shared) - len(done.shared) == whole.prompt - done.prompt
    assert done.prompt >= 1
    for side in ("fixed", "buggy"):
        ids = getattr(done, side).ids
        assert ids == getattr(whole, side).ids[: len(ids)]
        assert statement_ids(done, side) == statement_ids(whole, side)
        assert len(done.shared) + len(ids) <= length
    assert max(len(done.shared) + len(b.ids) for b in (done.fixed, done.buggy)) == min(length, 73)


def test_a_statement_longer_than_the_context_is_refused_even_so(tiny_tok: Tok) -> None:
    with pytest.raises(DataError, match="pair 'p9' has 71 tokens"):
        PairEncoder(tiny_tok, max_length=7, overlong="left")(LONG)


def test_a_pair_as_long_as_the_context_is_kept(tiny_tok: Tok) -> None:
    done = PairEncoder(tiny_tok, max_length=71)(LONG)
    assert len(done.shared) + len(done.fixed.ids) == 71
    with pytest.raises(DataError, match="71 tokens"):
        PairEncoder(tiny_tok, max_length=70)(LONG)


def test_encoding_does_not_depend_on_what_was_encoded_before(any_tok: Tok, make_pairs: MakePairs) -> None:
    pairs, encoder = make_pairs(10, 3), PairEncoder(any_tok)
    first = [encoder(pair) for pair in pairs]
    random.Random(0).shuffle(order := list(range(10)))
    assert {i: encoder(pairs[i]) for i in order} == dict(enumerate(first))
    assert encoder(replace(pairs[0], id="other")) == first[0]._replace(id="other")


def test_offsets_tile_the_text(any_tok: Tok, make_pairs: MakePairs) -> None:
    for pair in make_pairs(40, 5):
        done = encode_text(any_tok, pair.prefix + "x")
        assert all(start <= end for start, end in done.offsets)
        covered = {c for start, end in done.offsets for c in range(start, end)}
        assert covered == set(range(len(pair.prefix) + 1))


def test_an_empty_text_is_the_beginning_token(any_tok: Tok) -> None:
    assert encode_text(any_tok, "").ids == [any_tok.bos_token_id]


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    slow: Any = Slow()
    with pytest.raises(ModelError, match="tokenizer Slow gives no character offsets; hotfix needs a fast tokenizer"):
        encode_text(slow, "x")

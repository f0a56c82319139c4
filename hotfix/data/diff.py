"""Which tokens differ between two texts.

The texts are compared lexeme by lexeme (a name, a number, a run of spaces, one other character), not character by
character: `md5` and `sha512` share a "5" by accident, and a loss must not treat it as kept. The changed characters are
then mapped to the tokenizer's tokens by their offsets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

__all__ = ["Hunk", "common_prefix_length", "diff_text", "edited_tokens"]

_LEXEME = re.compile(r"[^\W\d]\w*|\d+|\s+|.", re.DOTALL)


class Hunk(NamedTuple):
    """Characters `a_start:a_end` of one text stand where `b_start:b_end` stand in the other; one may be empty."""

    a_start: int
    a_end: int
    b_start: int
    b_end: int


def diff_text(a: str, b: str) -> list[Hunk]:
    """Return the changed stretches between two texts, left to right.

    >>> diff_text("df.append(row)", "df.concat(row)")
    [Hunk(a_start=3, a_end=9, b_start=3, b_end=9)]
    >>> diff_text("get(url, verify=False)", "get(url)")
    [Hunk(a_start=7, a_end=21, b_start=7, b_end=7)]
    """
    words_a, words_b = _LEXEME.findall(a), _LEXEME.findall(b)
    at_a, at_b = _offsets(words_a), _offsets(words_b)
    opcodes = SequenceMatcher(None, words_a, words_b, autojunk=False).get_opcodes()
    return [Hunk(at_a[i], at_a[j], at_b[k], at_b[m]) for tag, i, j, k, m in opcodes if tag != "equal"]


def edited_tokens(spans: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]], shared: int) -> list[bool]:
    """Mark the tokens that a side doesn't share with the other.

    A token counts when it overlaps a changed span. An empty span (the other side has text here, this one has none)
    marks the first token behind it, and the first token after the shared beginning always counts: there the two sides
    part, and a model that is to write one of them must decide there. Tokens of the shared beginning never count, so
    that no token in the same context is learnt and unlearnt at once.

    Args:
        spans: changed (start, end) characters of this side, ascending.
        offsets: (start, end) characters of each token [T].
        shared: number of leading tokens that both sides have in common.

    Returns:
        One flag a token [T].

    >>> edited_tokens([(3, 9)], [(0, 2), (2, 3), (3, 9), (9, 10)], shared=2)
    [False, False, True, False]
    >>> edited_tokens([(7, 7)], [(0, 3), (3, 7), (7, 8), (8, 9)], shared=2)
    [False, False, True, False]
    """
    marks = [False] * len(offsets)
    for start, end in spans:
        if start == end:
            behind = next((t for t, (_, stop) in enumerate(offsets) if stop > start and t >= shared), None)
            if behind is not None:
                marks[behind] = True
            continue
        for t, (token_start, token_end) in enumerate(offsets):
            if t >= shared and token_start < end and token_end > start:
                marks[t] = True
    if shared < len(marks):
        marks[shared] = True
    return marks


def common_prefix_length(*sequences: Sequence[int]) -> int:
    """Return how many leading items all sequences share.

    >>> common_prefix_length([1, 2, 3], [1, 2, 4], [1, 2])
    2
    """
    length = 0
    for items in zip(*sequences, strict=False):
        if any(item != items[0] for item in items):
            break
        length += 1
    return length


def _offsets(words: Sequence[str]) -> list[int]:
    at = [0]
    for word in words:
        at.append(at[-1] + len(word))
    return at

"""Which tokens differ between two texts.

The texts are compared lexeme by lexeme (a name, a number, a run of spaces, one other character), not character by
character: `md5` and `sha512` share a "5" by accident, and a loss must not treat it as kept. The changed characters are
then mapped to the tokenizer's tokens by their offsets.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from typing import NamedTuple, TypeAlias

__all__ = [
    "Edits",
    "Hunk",
    "Span",
    "align_spans",
    "common_prefix_length",
    "diff_text",
    "edited_tokens",
    "keeps_order",
    "widen",
    "widen_spans",
]

_LEXEME = re.compile(r"[^\W\d]\w*|\d+|\s+|.", re.DOTALL)


Span: TypeAlias = tuple[int, int]
"""(start, end) characters of a text; an empty one says that the other text has something there."""


class Hunk(NamedTuple):
    """Characters `a_start:a_end` of one text stand where `b_start:b_end` stand in the other; one may be empty."""

    a_start: int
    a_end: int
    b_start: int
    b_end: int


class Edits(NamedTuple):
    """What differs between the two statements of a pair: the characters of each that the other has not, ascending.

    A stretch may begin before the statement does (below 0), where a line break is named that both texts have.
    """

    buggy: tuple[Span, ...]
    fixed: tuple[Span, ...]

    @classmethod
    def of(cls, hunks: Sequence[Hunk]) -> Edits:
        """The same, from hunks whose `a` is the buggy text."""
        return cls(tuple((h.a_start, h.a_end) for h in hunks), tuple((h.b_start, h.b_end) for h in hunks))


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


def align_spans(a: str, b: str, a_spans: Sequence[Span], b_spans: Sequence[Span]) -> list[Hunk] | None:
    """Put the changed stretches of two texts, each listed for itself, against each other.

    What is left of both texts without the stretches must be the same; None where it isn't: the lists are wrong, or each
    comes from a comparison of its own.

    Args:
        a: one text.
        b: the other.
        a_spans: (start, end) characters of `a` that `b` has not, ascending.
        b_spans: the same of `b`.

    >>> align_spans("f(a, b)", "g(a)", [(0, 1), (3, 6)], [(0, 1)])
    [Hunk(a_start=0, a_end=1, b_start=0, b_end=1), Hunk(a_start=3, a_end=6, b_start=3, b_end=3)]
    >>> align_spans("f(a, b)", "g(a)", [(0, 1), (2, 5)], [(0, 1)])
    """
    cuts_a, cuts_b = _cuts(len(a), a_spans), _cuts(len(b), b_spans)
    if cuts_a is None or cuts_b is None or _without(a, a_spans) != _without(b, b_spans):
        return None
    hunks, moved_a, moved_b = [], 0, 0
    for kept in sorted({*cuts_a, *cuts_b}):
        start_a, start_b = kept + moved_a, kept + moved_b
        moved_a, moved_b = moved_a + cuts_a.get(kept, 0), moved_b + cuts_b.get(kept, 0)
        hunks.append(Hunk(start_a, kept + moved_a, start_b, kept + moved_b))
    return hunks


def widen(a: str, b: str, hunks: Sequence[Hunk]) -> list[Hunk]:
    """Grow hunks to whole lexemes on both sides; those that then touch become one.

    >>> widen("x = TLS10", "x = TLS12", [Hunk(8, 9, 8, 9)])
    [Hunk(a_start=4, a_end=9, b_start=4, b_end=9)]
    >>> widen("foo()", "foobar()", [Hunk(3, 3, 3, 6)])
    [Hunk(a_start=0, a_end=3, b_start=0, b_end=6)]
    """
    at_a, at_b = set(_offsets(_LEXEME.findall(a))), set(_offsets(_LEXEME.findall(b)))
    found: list[Hunk] = []
    for hunk, following in pairwise([*hunks, Hunk(len(a), len(a), len(b), len(b))]):
        a_start, a_end, b_start, b_end = hunk
        last = found[-1] if found else Hunk(0, 0, 0, 0)
        # Between two hunks both texts are the same, so both ends of a side move together.
        while a_start > last.a_end and not (a_start in at_a and b_start in at_b):
            a_start, b_start = a_start - 1, b_start - 1
        while a_end < following.a_start and not (a_end in at_a and b_end in at_b):
            a_end, b_end = a_end + 1, b_end + 1
        if found and a_start == last.a_end and b_start == last.b_end:
            found.pop()
            a_start, b_start = last.a_start, last.b_start
        found.append(Hunk(a_start, a_end, b_start, b_end))
    return found


def widen_spans(text: str, spans: Sequence[Span]) -> list[Span]:
    """Grow the stretches of one text to whole lexemes; those that then touch become one.

    >>> widen_spans("a.md5(b)", [(2, 3), (4, 6)])
    [(2, 6)]
    """
    borders = _offsets(_LEXEME.findall(text))
    found: list[Span] = []
    for start, end in spans:
        left, right = borders[bisect_right(borders, start) - 1], borders[bisect_left(borders, end)]
        if found and left <= found[-1][1]:
            left = found.pop()[0]
        found.append((left, right))
    return found


def keeps_order(text: str, spans: Sequence[Span], other: str) -> bool:
    """Whether all of `text` outside the stretches stands in `other`, in order, as it must if they are what was changed.

    >>> keeps_order("f(a, b)", [(3, 6)], "g.f(a)"), keeps_order("f(a, b)", [(4, 7)], "f(a)")
    (True, False)
    """
    if _cuts(len(text), spans) is None:
        return False
    rest = iter(other)
    return all(character in rest for character in _without(text, spans))


def edited_tokens(spans: Sequence[Span], offsets: Sequence[Span], shared: int) -> list[bool]:
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


def common_prefix_length(*sequences: Sequence[object]) -> int:
    """Return how many leading items all sequences share.

    >>> common_prefix_length([1, 2, 3], [1, 2, 4], [1, 2])
    2
    """
    first, *others = sequences
    low, high = 0, min(map(len, sequences))
    # Slices are compared at the speed of C, thousands of items at once.
    while low < high:
        middle = (low + high + 1) // 2
        if all(other[low:middle] == first[low:middle] for other in others):
            low = middle
        else:
            high = middle - 1
    return low


def _offsets(words: Sequence[str]) -> list[int]:
    at = [0]
    for word in words:
        at.append(at[-1] + len(word))
    return at


def _cuts(length: int, spans: Sequence[Span]) -> dict[int, int] | None:
    """Characters cut out of a text, by how many kept ones stand before; None where the spans aren't ascending."""
    cuts: dict[int, int] = {}
    at = kept = 0
    for start, end in spans:
        if not at <= start <= end <= length:
            return None
        kept += start - at
        cuts[kept] = cuts.get(kept, 0) + end - start
        at = end
    return cuts


def _without(text: str, spans: Sequence[Span]) -> str:
    kept, at = [], 0
    for start, end in spans:
        kept.append(text[at:start])
        at = end
    return "".join([*kept, text[at:]])

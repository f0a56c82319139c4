"""Whole functions before and after a fix, cut to the lines that differ: the schema of SVEN and those that copy it.

A function with several changes stays one pair: its statement reaches from the first changed line to the last, and
`CodePair.edits` says what of it differs. Each side is thus learnt in its own text, as SVEN does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hotfix.data.diff import (
    Edits,
    align_spans,
    common_prefix_length,
    diff_text,
    keeps_order,
    widen,
    widen_spans,
)
from hotfix.errors import DataError

__all__ = ["Change", "Excerpt", "Functions", "cut_out", "function_edits", "read_functions"]

_SOURCES = ("func_src_before", "func_src_after")


class Excerpt(NamedTuple):
    """`prefix + buggy + suffix` is the text before, `prefix + fixed + suffix` after; `edits` count within the lines."""

    prefix: str
    buggy: str
    fixed: str
    suffix: str
    edits: Edits


class Change(NamedTuple):
    """A stretch of one text, and what it says it holds; None where it doesn't say."""

    start: int
    end: int
    text: str | None


class Functions(NamedTuple):
    """One row: both texts, and the stretches in which the row says that they differ."""

    before: str
    after: str
    deleted: list[Change]
    added: list[Change]


def cut_out(before: str, after: str, edits: Edits) -> Excerpt:
    r"""Cut the whole lines out that differ or are edited.

    The first line's indentation stays with the prefix and the last one's line break with the suffix. Where one side
    would be blank (lines were only added, or only deleted), the next line that isn't blank belongs to both statements,
    or the one before where there is none: a completion must have something to be recognised by.

    >>> cut_out("def f():\n    a()\n", "def f():\n    b()\n", Edits(((13, 14),), ((13, 14),)))[:4]
    ('def f():\n    ', 'a()', 'b()', '\n')
    >>> cut_out("if x:\n    go()\n", "if x:\n    log()\n    go()\n", Edits(((10, 10),), ((10, 20),)))[1:3]
    ('go()', 'log()\n    go()')
    """
    starts, ends = [side[0][0] for side in edits if side], [side[-1][1] if side else 0 for side in edits]
    parting = common_prefix_length(before, after)
    first = min([*starts, parting])
    # A line break before an inserted line is as good as the one behind it: the statement begins where the texts part.
    first = parting if before[first:parting].isspace() else first
    start = before.rfind("\n", 0, first) + 1
    behind = min(
        len(before) - max(ends[0], start),
        len(after) - max(ends[1], start),
        common_prefix_length(before[start:][::-1], after[start:][::-1]),
    )
    tail = before[len(before) - behind :]
    a, b = before[start : len(before) - behind], after[start : len(after) - behind]
    kept = 0 if a.endswith("\n") and b.endswith("\n") else _line_end(tail, 0)
    while kept < len(tail) and _blank(a + tail[:kept], b + tail[:kept]):
        kept = _line_end(tail, kept + 1)
    a, b = a + tail[:kept], b + tail[:kept]
    while start and _blank(a, b):
        first = before.rfind("\n", 0, start - 1) + 1
        a, b, start = before[first:start] + a, before[first:start] + b, first
    alike = a[: common_prefix_length(a, b)]
    indent = min([_indentation(alike), *(place - start for place in starts if place >= start)])
    start += indent
    return Excerpt(
        prefix=before[:start],
        buggy=a[indent:],
        fixed=b[indent:],
        suffix=tail[kept:],
        edits=Edits(*(tuple((begin - start, end - start) for begin, end in side) for side in edits)),
    )


def function_edits(functions: Functions) -> tuple[Edits, bool]:
    """Return what differs between the texts, in whole lexemes, and whether the row's own changes say so.

    The row's changes are believed where each names the characters that stand there, and where what it leaves unchanged
    of one text stands in the other. (In the published privacy pairs two thirds of the deleted stretches point at the
    wrong characters, because the offset was counted in the other text.) Otherwise the texts are compared.

    SVEN compares the texts once for the deleted and once for the added characters, and the two may disagree about what
    was kept. Only where they agree is it known at which characters the *other* side has something inserted.
    """
    before, after, deleted, added = functions
    if not (deleted or added) or not (_true(before, deleted, after) and _true(after, added, before)):
        return Edits.of(diff_text(before, after)), False
    spans_a, spans_b = [(c.start, c.end) for c in deleted], [(c.start, c.end) for c in added]
    hunks = align_spans(before, after, spans_a, spans_b)
    if hunks is None:
        return Edits(tuple(widen_spans(before, spans_a)), tuple(widen_spans(after, spans_b))), True
    return Edits.of(widen(before, after, hunks)), True


def read_functions(row: Mapping[str, Any], path: Path, line: int) -> Functions:
    """Check the columns `func_src_before`, `func_src_after` and, where there, `char_changes`.

    Raises:
        DataError: a column is missing or isn't what it should be.
    """
    for name in _SOURCES:
        if not isinstance(row.get(name), str):
            have = ", ".join(map(repr, row))
            raise DataError(f"column '{name}' is missing or not text; this row has {have}", path, line)
    changes = row.get("char_changes") or {}
    try:
        # Some copies of the published files hold the object as text.
        changes = json.loads(changes) if isinstance(changes, str) else changes
        found = {
            side: [Change(int(c["char_start"]), int(c["char_end"]), c.get("chars")) for c in changes.get(side) or []]
            for side in ("deleted", "added")
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"column 'char_changes' can't be read ({error!r:.80})",
            path,
            line,
            'expected {"deleted": [{"char_start": 0, "char_end": 1}], "added": []}; without it the texts are compared',
        ) from None
    return Functions(row[_SOURCES[0]], row[_SOURCES[1]], found["deleted"], found["added"])


def _true(text: str, changes: Sequence[Change], other: str) -> bool:
    named = all(c.text in (None, text[c.start : c.end]) for c in changes)
    return named and keeps_order(text, [(c.start, c.end) for c in changes], other)


def _blank(a: str, b: str) -> bool:
    return not (a.strip() and b.strip())


def _line_end(text: str, at: int) -> int:
    """Where the line that `at` stands in ends, its line break left out."""
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _indentation(text: str) -> int:
    return len(text) - len(text.lstrip(" \t"))

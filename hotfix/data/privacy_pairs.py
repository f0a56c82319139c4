"""Code with somebody's address in it, and the same code with a placeholder: the privacy pairs' schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from hotfix.data.diff import Edits, Hunk, diff_text
from hotfix.data.functions import Excerpt, cut_out, read_functions
from hotfix.data.pair_files import PairFiles
from hotfix.data.schema import CodePair, parse_row

__all__ = ["PrivacyPairs", "line_excerpts"]

_USED = ("func_src_before", "func_src_after", "line_changes", "char_changes", "func_name")


def line_excerpts(before: str, after: str) -> Iterator[Excerpt]:
    r"""Yield one excerpt for each stretch of changed lines; what stands before it is already redacted.

    >>> [(e.prefix, e.buggy, e.fixed) for e in line_excerpts("a: x@y.z\nb: u@v.w\n", "a: <EMAIL>\nb: <EMAIL>\n")]
    [('', 'a: x@y.z', 'a: <EMAIL>'), ('a: <EMAIL>\n', 'b: u@v.w', 'b: <EMAIL>')]
    """
    hunks = diff_text(before, after)
    while hunks:
        here = [hunks[0]]
        while len(here) < len(hunks) and "\n" not in before[here[-1].a_end : hunks[len(here)].a_start]:
            here.append(hunks[len(here)])
        # Behind the stretch both texts go on alike as far as the next one, whose turn comes with the next excerpt.
        rest = after[here[-1].b_end :]
        yield cut_out(before[: here[-1].a_end] + rest, after, Edits.of(here))
        before, grown = after[: here[-1].b_end] + before[here[-1].a_end :], here[-1].b_end - here[-1].a_end
        hunks = [Hunk(h.a_start + grown, h.a_end + grown, h.b_start, h.b_end) for h in hunks[len(here) :]]


class PrivacyPairs(PairFiles):
    """Addresses to be unlearnt and placeholders to be written instead, in the schema of the published privacy data.

    Yang and Lo 2024, https://arxiv.org/abs/2408.05727. Columns `func_src_before` (with the real values),
    `func_src_after` (with `<EMAIL>`, `<IP-Address>`), `bug_type` or `vul_type`, `func_name` (a number). Each stretch of
    changed lines is a pair of its own, with what stands before it redacted, so that no prompt shows an address; all of
    a row keep its number in the column `document` and stay in one split. The offsets in `char_changes` are not used: in
    the published file two thirds of the deleted ones point at the wrong characters. Rows in which nothing changed hold
    nothing to learn and are passed over; of the published 653 those are 207.

    The arguments are those of `PairFiles`; `split_by: auto` goes by document. The published file is the same for
    training and validation: name one file for all splits here, and it is dealt.
    """

    def parse(self, row: Mapping[str, Any], path: Path, line: int) -> list[CodePair]:
        """Make a row its pairs."""
        functions = read_functions(row, path, line)
        document = str(row.get("id", row.get("func_name", f"{path.name}:{line}")))
        more = {key: value for key, value in row.items() if key not in _USED}
        found = []
        for number, excerpt in zip(count(1), line_excerpts(functions.before, functions.after)):
            texts = {"prefix": excerpt.prefix, "buggy": excerpt.buggy, "fixed": excerpt.fixed, "suffix": excerpt.suffix}
            fields = {**more, "id": f"{document}#{number}", "document": document, **texts}
            found.append(replace(parse_row(fields, path, line), edits=excerpt.edits))
        return found

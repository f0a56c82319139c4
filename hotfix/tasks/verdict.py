"""Did a completion write the fixed statement, the buggy one, or something else?

`judge`: the completion is cut to as many statements as the longer side has, white space is folded, a comment behind it
is taken off, and the rest must equal a side, so no completion counts as both.

`find_substrings` counts as the published code of the hotfixing paper does (Zhou et al. 2024,
https://arxiv.org/abs/2408.05727): a side counts where its text stands anywhere in the completion, as it is. One
completion may count as both; and where the bug is a part of the fix (one more argument, one more condition), every fix
is counted as a bug, too. It is for comparison with that paper.
"""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["BugFixVerdict", "Substrings", "find_substrings", "fold", "judge", "open_brackets", "statements"]

BugFixVerdict = Literal["fixed", "buggy", "neither"]
Substrings = Literal["fixed", "buggy", "both", "neither"]
_OPEN, _CLOSE = "([{", ")]}"
_COMMENT = re.compile(r"\s(#|//).*$")


def statements(text: str, count: int = 1) -> list[str]:
    r"""Return the first statements of a text: lines that aren't blank, joined where a bracket is open.

    >>> statements("f(a,\n  b)\n\nreturn x\n", 2)
    ['f(a,\n  b)', 'return x']
    """
    found: list[str] = []
    open_lines: list[str] = []
    depth = 0
    for line in text.split("\n"):
        if not open_lines and not line.strip():
            continue
        open_lines.append(line)
        depth = _depth_after(line, depth)
        if depth == 0:
            found.append("\n".join(open_lines))
            open_lines, depth = [], 0
        if len(found) == count:
            return found
    return [*found, "\n".join(open_lines)] if open_lines else found


def fold(statement: str) -> str:
    """Fold white space and drop a trailing comment.

    >>> fold("  x =  1  # one")
    'x = 1'
    """
    folded = " ".join(statement.split())
    return _COMMENT.sub("", folded) if "\n" not in statement.strip() else folded


def judge(completion: str, fixed: str, buggy: str, residue: str = "") -> BugFixVerdict:
    r"""Return the verdict on one completion.

    Args:
        completion: what the model wrote behind the prompt.
        fixed: the fixed statement.
        buggy: the buggy statement.
        residue: the end of the prefix that wasn't in the prompt; the completion must begin with it, white space aside.

    >>> judge("append(row)  # add it\nreturn df", "concat(row)", "append(row)")
    'buggy'
    """
    sides = {"fixed": fixed, "buggy": buggy}
    count = max(len(statements(side, 1_000_000)) for side in sides.values())
    start = residue.strip()
    if start:
        begun = completion.lstrip()
        if not begun.startswith(start):
            return "neither"
        completion = begun[len(start) :]
    written = _key(completion, count)
    for verdict, side in sides.items():
        if written == _key(side, count):
            return "fixed" if verdict == "fixed" else "buggy"
    return "neither"


def find_substrings(completion: str, fixed: str, buggy: str) -> Substrings:
    """Return which sides' texts are parts of the completion, character by character.

    >>> find_substrings("  x = f(a);", "f(a, b)", "f(a)"), find_substrings("x = f(a, b)", "f(a, b)", "f(a")
    ('buggy', 'both')
    """
    if fixed in completion:
        return "both" if buggy in completion else "fixed"
    return "buggy" if buggy in completion else "neither"


def open_brackets(text: str) -> int:
    r"""Return how many brackets a text leaves open, those in strings and comments aside.

    >>> open_brackets("f(a, [b]"), open_brackets("g()\nf('(', {1: ("), open_brackets(")")
    (1, 3, 0)
    """
    depth = 0
    for line in text.split("\n"):
        depth = _depth_after(line, depth)
    return depth


def _key(text: str, count: int) -> tuple[str, ...]:
    return tuple(map(fold, statements(text, count)))


def _depth_after(line: str, depth: int) -> int:
    """Brackets open behind a line, those in strings and comments left out.

    A completion often closes brackets of its prompt, so the depth never falls below zero.
    """
    start, quote, skip = depth, "", False
    for letter in line:
        if skip:
            skip = False
        elif letter == "\\":
            skip = True
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "#":
            break
        else:
            depth = max(0, depth + (letter in _OPEN) - (letter in _CLOSE))
    # A quote that doesn't end on its line was an apostrophe, in prose.
    return start if quote else depth

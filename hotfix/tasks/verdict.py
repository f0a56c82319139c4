"""Did a completion write the fixed statement, the buggy one, or something else?

The completion is cut to as many statements as the longer side has, white space is folded, a comment behind it is taken
off, and the rest must equal a side. Substring counting, which the published code of the hotfixing paper uses, lets one
completion count as both (its section 5.1); this can't.
"""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["BugFixVerdict", "fold", "judge", "statements"]

BugFixVerdict = Literal["fixed", "buggy", "neither"]
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

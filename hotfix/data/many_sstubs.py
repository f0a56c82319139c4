"""ManySStuBs4J and the like: one-statement bugs with the patch that fixed each, and no more context than it shows."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hotfix.data.diff import common_prefix_length
from hotfix.data.pair_files import PairFiles
from hotfix.data.schema import CodePair, parse_row
from hotfix.errors import DataError

__all__ = ["ManySStuBs4J", "PatchLines", "patch_lines"]

log = logging.getLogger(__name__)

_HUNK = re.compile(r"^@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@.*\n", re.MULTILINE)
_PATCH = ("fixPatch", "patch")
_COMMIT = ("fixCommitSHA1", "commitSHA1")
_PLACE = ("projectName", *_COMMIT, "bugFilePath", "commitFile", "bugLineNum", "bugNodeStartChar", "bugType")


class PatchLines(NamedTuple):
    """The lines that a patch replaces, what it replaces them by, and its context, other changes made there."""

    prefix: str
    buggy: str
    fixed: str
    suffix: str


def patch_lines(patch: str, bug_line: int | None = None) -> PatchLines | None:
    r"""Read a replacement of lines by lines out of a unified diff.

    Args:
        patch: the diff of one file.
        bug_line: 1-based line, in the file before, that the replacement must reach; None where the diff has only one.

    Returns:
        The replacement; None where there is no such, or several.

    >>> patch_lines("--- a\n+++ b\n@@ -7,3 +7,3 @@\n int x;\n-  f(1);\n+  f(2);\n }\n", 8)
    PatchLines(prefix='int x;\n  ', buggy='f(1);', fixed='f(2);', suffix='\n}')
    """
    _, *parts = _HUNK.split(patch)
    found = []
    for first, body in zip(parts[::2], parts[1::2], strict=True):
        lines = [line or " " for line in body.rstrip("\n").split("\n") if not line.startswith("\\")]
        marks = "".join(line[0] for line in lines)
        for match in re.finditer(r"-+\++", marks):
            line = int(first) + len(marks[: match.start()].replace("+", ""))
            if bug_line is None or line <= bug_line < line + match[0].count("-"):
                found.append(_cut(lines, match.start(), match.end()))
    return found[0] if len(found) == 1 else None


class ManySStuBs4J(PairFiles):
    """Single-statement Java bugs with the patch that fixed each; the context is the few lines that the patch shows.

    Karampatsis and Sutton 2020, https://arxiv.org/abs/1905.13334; its files `sstubs.json` and `sstubsLarge.json`, one
    JSON array each, columns `bugType`, `projectName`, `fixPatch` (or `patch`), `fixCommitSHA1` (or `commitSHA1`),
    `bugLineNum` and others. Bugs whose patch doesn't replace lines by lines at `bugLineNum` are passed over. One-line
    pairs with their whole context (the columns of `JesseCSV`) are what `JesseCSV` and `PairFiles` read.

    The arguments are those of `PairFiles`; `split_by: auto` goes by project.
    """

    def parse(self, row: Mapping[str, Any], path: Path, line: int) -> list[CodePair]:
        """Read a row's patch."""
        patch = next((row[name] for name in _PATCH if row.get(name)), None)
        if not any(name in row for name in _PATCH):
            have = ", ".join(map(repr, row)) or "none"
            raise DataError(f"no column {' or '.join(map(repr, _PATCH))}; this row has {have}", path, line)
        at = row.get("bugLineNum")
        lines = patch_lines(patch, None if at is None else int(at)) if isinstance(patch, str) else None
        if lines is None:
            log.info("%s:%s: passed over, the patch replaces no lines there", path, line)
            return []
        own = "/".join(str(row[name]) for name in _PLACE if name in row) or f"{path.name}:{line}"
        more = {key: value for key, value in row.items() if key not in _PATCH}
        return [parse_row({"id": own, **more, **lines._asdict()}, path, line)]


def _cut(lines: list[str], start: int, stop: int) -> PatchLines:
    before = [line[1:] + "\n" for line in lines[:start] if line[0] != "-"]
    a = "\n".join(line[1:] for line in lines[start:stop] if line[0] == "-")
    b = "\n".join(line[1:] for line in lines[start:stop] if line[0] == "+")
    behind = ["\n" + line[1:] for line in lines[stop:] if line[0] != "-"]
    indent = common_prefix_length(a[: len(a) - len(a.lstrip(" \t"))], b[: len(b) - len(b.lstrip(" \t"))])
    return PatchLines("".join(before) + a[:indent], a[indent:], b[indent:], "".join(behind))

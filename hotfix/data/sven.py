"""Vulnerable and secure functions with the characters that a fix changed: the files of SVEN and SafeCoder."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hotfix.data.functions import cut_out, function_edits, read_functions
from hotfix.data.pair_files import PairFiles
from hotfix.data.schema import CodePair, parse_row

__all__ = ["SVEN", "project_of"]

log = logging.getLogger(__name__)

_USED = ("func_src_before", "func_src_after", "line_changes", "char_changes")


def project_of(commit_link: str) -> str:
    """Return owner and name of the repository that a link to a commit is in; empty where it isn't such a link.

    >>> project_of("github.com/abrt/libreport/commit/239c4f7"), project_of("n/a")
    ('abrt/libreport', '')
    """
    found = re.search(r"(?:^|//)[\w.-]+/([\w.-]+/[\w.-]+?)(?:\.git)?/(?:-/)?commits?/", commit_link)
    return found[1] if found else ""


class SVEN(PairFiles):
    """Functions before and after a security fix; the edited tokens are those that the data's own masks name.

    SVEN: He and Vechev 2023, https://arxiv.org/abs/2302.05319; SafeCoder (the same columns): He et al. 2024,
    https://arxiv.org/abs/2402.09497. Columns `func_src_before`, `func_src_after`, `char_changes`
    (without it the texts are compared), `vul_type`, `commit_link`. A function is one pair however many places of it
    changed: the prompt ends where the first changed line begins, the statement reaches to the last one. Each changed
    character is widened to the name, number or run of spaces that it stands in, and tokens of the beginning that both
    sides share are never marked. Rows in which nothing changed are passed over. Many are long: see `overlong`.

    The arguments are those of `PairFiles`; `split_by: auto` goes by project, taken from `commit_link`.
    """

    def parse(self, row: Mapping[str, Any], path: Path, line: int) -> list[CodePair]:
        """Cut a row to the lines that differ."""
        functions = read_functions(row, path, line)
        if functions.before == functions.after:
            log.info("%s:%s: passed over, nothing changed", path, line)
            return []
        edits, trusted = function_edits(functions)
        if not trusted and row.get("char_changes"):
            log.warning("%s:%s: char_changes don't fit the texts, which are compared instead", path, line)
        excerpt = cut_out(functions.before, functions.after, edits)
        more = {key: value for key, value in row.items() if key not in _USED}
        project = project_of(str(row.get("commit_link", "")))
        texts = {"prefix": excerpt.prefix, "buggy": excerpt.buggy, "fixed": excerpt.fixed, "suffix": excerpt.suffix}
        pair = parse_row({**({"project": project} if project else {}), **more, **texts}, path, line)
        return [replace(pair, edits=excerpt.edits)]

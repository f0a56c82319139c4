"""The Java bugs of Jesse et al. as their replication archive has them: `sstub_input_no_comments.csv`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hotfix.data.pair_files import PairFiles
from hotfix.data.schema import CodePair, parse_row

__all__ = ["BUG_TYPES", "JesseCSV", "suffix_lines"]

BUG_TYPES: tuple[str, ...] = (
    "CHANGE_CALLER_IN_FUNCTION_CALL",
    "CHANGE_IDENTIFIER",
    "CHANGE_NUMERAL",
    "CHANGE_OPERAND",
    "CHANGE_OPERATOR",
    "CHANGE_UNARY_OPERATOR",
    "DIFFERENT_METHOD_SAME_ARGS",
    "LESS_SPECIFIC_IF",
    "MORE_SPECIFIC_IF",
    "OVERLOAD_METHOD_DELETED_ARGS",
    "OVERLOAD_METHOD_MORE_ARGS",
    "SWAP_BOOLEAN_LITERAL",
)
"""The twelve of ManySStuBs4J's sixteen kinds that are trained on and measured."""

_SHORTEST, _LONGEST = 10, 20


def suffix_lines(text: str, key: str) -> str:
    r"""Return the first 10 to 20 lines of a suffix, as many as the key's hash says, so that no run differs.

    >>> len(suffix_lines("\n".join(map(str, range(99))), "a").splitlines()) in range(10, 21)
    True
    """
    draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % (_LONGEST - _SHORTEST + 1)
    # The first line break ends the statement's own line.
    return "\n".join(text.split("\n")[: _SHORTEST + draw + text.startswith("\n")])


class JesseCSV(PairFiles):
    """Single-statement Java bugs with the code around them, prompted as in "Hotfixing Large Language Models for Code".

    Jesse et al. 2023, https://arxiv.org/abs/2303.11455; hotfixing: Yang and Lo 2024, https://arxiv.org/abs/2408.05727.
    Columns `id`, `condition`, `bug`, `fix`, `post_conditional`, `bugType`, `buggy_commit`, `repository_url` and others,
    in CSV or any form that `PairFiles` reads. The prompt is the last 30 lines of `condition`, the suffix the first 10
    to 20 of `post_conditional`, and twelve bug types are kept. The published split is by row, so that a project, even a
    file, stands on both sides; here it is by project unless `split_by: row` asks for the published kind.

    The arguments are those of `PairFiles`.
    """

    own_prefix_lines = 30
    own_rules = BUG_TYPES

    def parse(self, row: Mapping[str, Any], path: Path, line: int) -> list[CodePair]:
        """Check a row and cut its suffix."""
        pair = parse_row(row, path, line)
        return [replace(pair, suffix=suffix_lines(pair.suffix, pair.id))]

"""One row of the user's data: a pair of statements that may stand at the same place, one buggy, one fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hotfix.data.diff import Edits
from hotfix.errors import DataError
from hotfix.types import SPLITS, Split

__all__ = ["ALIASES", "CodePair", "parse_row", "row_split"]

# The first spelling of which all columns are there is used; the last two are those of the Jesse et al. CSV and of TRL.
ALIASES: tuple[Mapping[str, str], ...] = (
    {"prefix": "prefix", "buggy": "buggy", "fixed": "fixed", "suffix": "suffix"},
    {"prefix": "condition", "buggy": "bug", "fixed": "fix", "suffix": "post_conditional"},
    {"prefix": "prompt", "buggy": "rejected", "fixed": "chosen", "suffix": "suffix"},
)
_RULE_COLUMNS = ("rule", "bug_type", "bugType", "vul_type")
# A column that says nothing of any row would make all of them one kind.
_NO_RULE = (None, "", "n/a", "N/A")
_REQUIRED = ("prefix", "buggy", "fixed")


@dataclass(frozen=True, slots=True)
class CodePair:
    """`prefix + buggy + suffix` is the bad code, `prefix + fixed + suffix` the good one.

    Args:
        id: unique in its data set, stable between runs.
        prefix: code before the place; what the model is prompted with.
        buggy: what should no longer be written there.
        fixed: what should be written instead.
        suffix: code after it; may be empty.
        rule: the kind of bug; examples of one rule are not independent, so intervals cluster by it.
        split: `train`, `validation`, `test`, or empty where the file doesn't say.
        source: `file:line`, for error messages.
        meta: the row's other columns.
        edits: where the statements differ, if the data says it; None where they are to be compared.
    """

    id: str
    prefix: str
    buggy: str
    fixed: str
    suffix: str = ""
    rule: str = ""
    split: Split | None = None
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    edits: Edits | None = None


def parse_row(row: Mapping[str, Any], path: Path, line: int) -> CodePair:
    """Check one decoded row and give it its place in the schema.

    Args:
        row: column -> value; the columns are those of one entry of `ALIASES`, `id` and `suffix` optional.
        path: the file, for messages and for the id of a row that has none.
        line: 1-based line of it.

    Raises:
        DataError: a missing column, a value that isn't text, or two sides that are the same.

    >>> parse_row({"prompt": "x = ", "chosen": "2", "rejected": "1"}, Path("p.jsonl"), 1).buggy
    '1'
    """
    columns = _columns(row, path, line)
    text = {name: row.get(column, "") for name, column in columns.items()}
    for name, value in text.items():
        if not isinstance(value, str):
            raise DataError(
                f"column '{columns[name]}' is {type(value).__name__} {value!r:.40}, expected text", path, line
            )
    if text["buggy"] == text["fixed"]:
        raise DataError(
            f"'{columns['buggy']}' and '{columns['fixed']}' are the same text {text['fixed']!r:.60}, so there is "
            "nothing to learn",
            path,
            line,
            "remove the row or correct one of them",
        )
    used = {*columns.values(), "id", "split"}
    return CodePair(
        id=str(row.get("id", f"{path.name}:{line}")),
        **text,
        rule=str(next((row[c] for c in _RULE_COLUMNS if row.get(c) not in _NO_RULE), "")),
        split=row_split(row, path, line),
        source=f"{path}:{line}",
        meta={key: value for key, value in row.items() if key not in used},
    )


def _columns(row: Mapping[str, Any], path: Path, line: int) -> Mapping[str, str]:
    for columns in ALIASES:
        if all(columns[name] in row for name in _REQUIRED):
            return columns
    closest = max(ALIASES, key=lambda columns: sum(columns[name] in row for name in _REQUIRED))
    missing = [closest[name] for name in _REQUIRED if closest[name] not in row]
    spellings = " or ".join("/".join(columns[name] for name in _REQUIRED) for columns in ALIASES)
    raise DataError(
        f"column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))} missing; this row has "
        f"{', '.join(map(repr, row)) or 'none'}",
        path,
        line,
        f"a row needs {spellings}",
    )


def row_split(row: Mapping[str, Any], path: Path, line: int) -> Split | None:
    """Return the split that a row names; None where it names none.

    Raises:
        DataError: it isn't one of the three.

    >>> row_split({"split": "test"}, Path("p.jsonl"), 1)
    'test'
    """
    split = row.get("split") or None
    if split is not None and split not in SPLITS:
        raise DataError(f"split {split!r} is not one of {', '.join(SPLITS)}", path, line, "correct or remove it")
    return split

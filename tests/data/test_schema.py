"""Every accepted spelling of a row gives the same pair, and every bad row is refused with its place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hotfix.data.schema import ALIASES, CodePair, parse_row
from hotfix.errors import DataError

PATH = Path("pairs.jsonl")
VALUES = {"prefix": "x = ", "buggy": "1", "fixed": "2", "suffix": "\ny"}
ROW = {"prefix": "x = ", "buggy": "1", "fixed": "2"}


@pytest.mark.parametrize("columns", ALIASES)
def test_every_spelling_gives_the_same_pair(columns: dict[str, str]) -> None:
    pair = parse_row({columns[name]: value for name, value in VALUES.items()}, PATH, 7)
    assert pair == CodePair("pairs.jsonl:7", "x = ", "1", "2", "\ny", source="pairs.jsonl:7")


def test_optional_columns_are_optional_and_others_become_meta() -> None:
    pair = parse_row({**ROW, "id": 12, "rule": "r", "split": "test", "why": ["a"], "n": 1}, PATH, 2)
    assert pair == CodePair(
        "12", "x = ", "1", "2", "", "r", "test", "pairs.jsonl:2", {"rule": "r", "why": ["a"], "n": 1}
    )


@pytest.mark.parametrize("column", ["rule", "bug_type", "bugType", "vul_type"])
def test_the_group_is_found_under_each_name(column: str) -> None:
    assert parse_row({**ROW, column: "cwe-79"}, PATH, 1).rule == "cwe-79"


@pytest.mark.parametrize("split", ["", None])
def test_an_empty_split_is_no_split(split: str | None) -> None:
    assert parse_row({**ROW, "split": split}, PATH, 1).split is None


def test_a_full_spelling_wins_over_a_column_of_another() -> None:
    pair = parse_row({"prompt": "a", "chosen": "b", "rejected": "c", "prefix": "z"}, PATH, 1)
    assert (pair.prefix, pair.meta) == ("a", {"prefix": "z"})


@pytest.mark.parametrize("side", ["fixed", "buggy"])
def test_one_side_may_be_empty(side: str) -> None:
    assert getattr(parse_row({**ROW, side: ""}, PATH, 1), side) == ""


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prefix": "x", "buggy": "y"},
            "pairs.jsonl:3: column 'fixed' missing; this row has 'prefix', 'buggy'; "
            "a row needs prefix/buggy/fixed or condition/bug/fix or prompt/rejected/chosen",
        ),
        ({"prompt": "x"}, "pairs.jsonl:3: columns 'rejected', 'chosen' missing; this row has 'prompt'"),
        ({"condition": "x", "bug": "y"}, "pairs.jsonl:3: column 'fix' missing"),
        ({}, "pairs.jsonl:3: columns 'prefix', 'buggy', 'fixed' missing; this row has none"),
        ({**ROW, "fixed": 2}, "pairs.jsonl:3: column 'fixed' is int 2, expected text"),
        ({**ROW, "suffix": None}, "pairs.jsonl:3: column 'suffix' is NoneType None, expected text"),
        (
            {"prompt": "x", "chosen": ["y"], "rejected": "z"},
            "pairs.jsonl:3: column 'chosen' is list ['y'], expected text",
        ),
        (
            {**ROW, "buggy": "2"},
            "pairs.jsonl:3: 'buggy' and 'fixed' are the same text '2', so there is nothing to learn; remove the row",
        ),
        (
            {"condition": "", "bug": "q", "fix": "q"},
            "pairs.jsonl:3: 'bug' and 'fix' are the same text 'q'",
        ),
        (
            {**ROW, "split": "dev"},
            "pairs.jsonl:3: split 'dev' is not one of train, validation, test; correct or remove it",
        ),
        ({**ROW, "split": 1}, "pairs.jsonl:3: split 1 is not one of train, validation, test"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(message)}") as caught:
        parse_row(row, PATH, 3)
    assert (caught.value.path, caught.value.line) == (PATH, 3)


@pytest.mark.parametrize("nothing", [None, "", "n/a"])
def test_a_rule_that_says_nothing_is_none(nothing: str | None) -> None:
    row = {"prefix": "", "buggy": "1", "fixed": "2", "bug_type": nothing, "vul_type": "cwe-1"}
    assert parse_row(row, Path("p"), 1).rule == "cwe-1"

"""Retain texts come from the standard library or from files, and no split sees another's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hotfix.data.retain import RetainText, read_retain
from hotfix.data.stdlib import stdlib_functions
from hotfix.errors import DataError
from hotfix.types import SPLITS


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_the_standard_library() -> None:
    found = read_retain("stdlib", "validation", 3, seed=4)
    assert found == [RetainText(f.id, f.text) for f in stdlib_functions(3, 4, split="validation")]


def test_rows_without_a_split_are_dealt_eight_to_one_to_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *({"text": f"t{i}"} for i in range(1, 101)))
    found = {split: {text.text for text in read_retain(path, split, 1000)} for split in SPLITS}
    assert {split: len(texts) for split, texts in found.items()} == {"train": 80, "validation": 10, "test": 10}
    assert set.union(*found.values()) == {f"t{i}" for i in range(1, 101)}


def test_rows_with_a_split_go_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *({"text": f"t{i}", "split": "test", "id": i} for i in range(12)))
    assert [text.id for text in read_retain([path], "test", 99)] == [str(i) for i in range(12)]
    with pytest.raises(DataError, match=f"{re.escape(path)}: no retain text for train; add rows with a 'text' column"):
        read_retain([path], "train", 99)


def test_count_and_several_files(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.jsonl", {"text": "one"}), write(tmp_path / "b.jsonl", {"text": "two"})
    assert read_retain([a, b], "train", 9) == [RetainText("a.jsonl:1", "one"), RetainText("b.jsonl:1", "two")]
    assert read_retain([a, b], "train", 1) == [RetainText("a.jsonl:1", "one")]


@pytest.mark.parametrize("row", [{}, {"text": 3}, {"text": " \n"}, {"code": "x"}])
def test_a_row_without_text_is_refused(tmp_path: Path, row: object) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "x"}, row)
    with pytest.raises(DataError, match=f"{re.escape(path)}:2: column 'text' is missing or empty"):
        read_retain(path, "train", 9)


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "x", "split": "dev"})
    with pytest.raises(DataError, match=f"{re.escape(path)}:1: split 'dev' is not one of train, validation, test"):
        read_retain(path, "train", 9)

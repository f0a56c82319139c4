"""Every kind of file gives the same rows, and a damaged one is named with its line."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from hotfix.data import PairFiles
from hotfix.data.tables import read_rows
from hotfix.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"id": "1", "prefix": 'x = "é,\n', "buggy": "1", "fixed": "2\r\n"},
    {"id": "2", "prefix": "y" * 200_000, "buggy": "a", "fixed": ""},
    {"id": "3", "prefix": "", "buggy": '""', "fixed": "'"},
]


def as_csv(path: Path) -> None:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(ROWS[0]))
    writer.writeheader()
    writer.writerows(ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + stream.getvalue().encode())


def as_json(path: Path) -> None:
    path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")


def as_lines(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")


def as_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=2)


KINDS: dict[str, Callable[[Path], None]] = {
    "a.csv": as_csv,
    "a.json": as_json,
    "a.jsonl": as_lines,
    "a.txt": as_lines,
    "A.PARQUET": as_parquet,
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    KINDS[name](tmp_path / name)
    assert [row for _, row in read_rows(tmp_path / name)] == ROWS


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl"])
def test_all_but_parquet_may_be_gzipped(name: str, tmp_path: Path) -> None:
    KINDS[name](tmp_path / name)
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    assert [row for _, row in read_rows(packed)] == ROWS


@pytest.mark.parametrize("name", KINDS)
def test_pair_files_reads_every_kind(name: str, tmp_path: Path) -> None:
    KINDS[name](tmp_path / name)
    pairs = PairFiles(str(tmp_path / name), tokenizer_name="tiny").read("train")
    assert [(p.id, p.prefix, p.buggy, p.fixed) for p in pairs] == [tuple(row.values()) for row in ROWS]


def test_a_csv_row_is_named_by_the_line_it_begins_in(tmp_path: Path) -> None:
    as_csv(tmp_path / "a.csv")
    assert [line for line, _ in read_rows(tmp_path / "a.csv")] == [2, 5, 6]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"id,fixed\n1,2\n\n1,2,3\n", r"a.csv:4: 3 cells, the header has 2; quote commas"),
        ("a.csv", b"id,fixed\n1,2\n1,\xe9\n", r"a.csv:3: byte 0xe9 at column 3 is not UTF-8"),
        ("a.json", b'[{"a": 1},\n{]', r"a.json:2: not valid JSON: .*; one object a line belongs into a .jsonl file"),
        ("a.json", b'{"a": 1}', r"a.json: a JSON dict, expected an array of objects"),
        ("a.json", b'[{"a": 1}, 3]', r"a.json:2: a JSON int, expected an object"),
        ("a.parquet", b"PAR1 not really", r"a.parquet: not a Parquet file \("),
    ],
)
def test_damaged_files_are_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_rows(tmp_path / name))


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl", "a.parquet"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{name}: no such file; paths count from the current folder"):
        list(read_rows(tmp_path / name))


def test_parquet_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_parquet(tmp_path / "a.parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"Parquet needs pyarrow, which is not installed; pip install hotfix\[data\]"):
        list(read_rows(tmp_path / "a.parquet"))

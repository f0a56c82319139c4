"""Files are read whatever they are packed and marked with, and every complaint names file and line."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from hotfix.data.reading import read_json_lines, read_pairs
from hotfix.errors import DataError


def row(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "prefix": "x = ", "buggy": "1", "fixed": "2", **more}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def refusal(path: Path, split: Any = "train") -> str:
    with pytest.raises(DataError) as caught:
        read_pairs([path], split)
    return str(caught.value)


def test_rows_come_in_file_order_over_several_files(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.jsonl", row("2"), row("1")), write(tmp_path / "b.jsonl", row("0"))
    assert [pair.id for pair in read_pairs([a, str(b)], "train")] == ["2", "1", "0"]
    assert read_pairs([a], "train")[1].source == f"{a}:2"


def test_each_split_takes_its_rows_and_those_without_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row("a", split="train"), row("b", split="test"), row("c"))
    found = {split: [p.id for p in read_pairs([path], split)] for split in ("train", "validation", "test")}
    assert found == {"train": ["a", "c"], "validation": ["c"], "test": ["b", "c"]}


def test_an_id_may_return_in_another_split(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row("a", split="train"), row("a", split="test"))
    assert [pair.id for pair in read_pairs([path], "test")] == ["a"]


def test_gzip_byte_order_mark_blank_lines_and_crlf(tmp_path: Path) -> None:
    plain = b"\xef\xbb\xbf" + json.dumps(row("é"), ensure_ascii=False).encode() + b"\r\n\n  \n" + b'{"b": 1}'
    (tmp_path / "a.jsonl").write_bytes(plain)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(plain))
    expected = [(1, row("é")), (4, {"b": 1})]
    assert list(read_json_lines(tmp_path / "a.jsonl")) == expected
    assert list(read_json_lines(tmp_path / "a.jsonl.gz")) == expected


def test_a_line_separator_inside_text_does_not_end_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row("a", fixed="2\u2028\x0c"), ensure_ascii=False), encoding="utf-8")
    assert read_pairs([path], "train")[0].fixed == "2\u2028\x0c"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'\n{"a": 1', ":2: not valid JSON: Expecting ',' delimiter at column 8; expected one JSON object a line"),
        (b"[1]", ":1: a JSON list, expected an object with the row's columns"),
        (b'"x"', ":1: a JSON str, expected an object"),
        (b'\n{"a": "caf\xe9"}', ":2: byte 0xe9 at column 11 is not UTF-8; save the file as UTF-8"),
        ("{}".encode("utf-16"), ":1: byte 0xff at column 1 is not UTF-8"),
        (b'{"prefix": "x", "buggy": "y"}', ":1: column 'fixed' missing"),
        (b"", ": nothing to read for train: no rows; point data.init_args.train to a file with rows for it"),
        (b" \n\n", ": nothing to read for train: no rows"),
    ],
)
def test_bad_content_is_refused_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}{message}")


def test_an_id_used_twice_names_both_places(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.jsonl", row("x"), row("y")), write(tmp_path / "b.jsonl", row("y"))
    with pytest.raises(DataError, match=re.escape(f"{b}:1: id 'y' was used before, at {a}:2; give each row its own")):
        read_pairs([a, b], "train")


def test_rows_of_other_splits_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row("a", split="train"), row("b", split="test"))
    assert refusal(path, "validation") == (
        f"{path}: nothing to read for validation: all 2 rows name another split; "
        "point data.init_args.validation to a file with rows for it"
    )


def test_no_such_file_and_a_folder(tmp_path: Path) -> None:
    gone = tmp_path / "gone.jsonl"
    assert refusal(gone) == f"{gone}: no such file; paths count from the current folder, {Path.cwd()}"
    assert refusal(tmp_path).startswith(f"{tmp_path}: a folder, expected a file")


def damaged() -> dict[str, bytes]:
    whole = gzip.compress(b"".join(json.dumps({"a": i}).encode() + b"\n" for i in range(400)))
    return {"plain": b'{"a": 1}\n', "cut": whole[:-9], "changed": whole[:60] + b"\xff" * 9 + whole[69:]}


@pytest.mark.parametrize("kind", damaged())
def test_damaged_gzip(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(damaged()[kind])
    with pytest.raises(
        DataError,
        match=rf"^{re.escape(str(path))}: damaged gzip file \(.+\); pack it again, or drop the .gz ending$",
    ):
        list(read_json_lines(path))


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", row("a"))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert refusal(path) == f"{path}: can't be read (Permission denied)"

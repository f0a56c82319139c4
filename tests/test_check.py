"""`hotfix check`, and what a fit makes of the same findings."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from unittest import mock

import pytest
from rich.console import Console
from smoke_runs import NO_MEASURE, arguments, run_here

from hotfix.data.quality import Finding
from hotfix.data.quality_table import quality_table, summary, told
from hotfix.errors import DataError

ERROR = Finding("error", "kind a", "p/1", "f.jsonl:3", "is [wrong]", "mend it")
WARNING = Finding("warning", "kind b", "", "", "looks odd", "")


def shown(found: list[Finding], limit: int = 20) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(quality_table(found, limit))
    return captured.get()


def test_findings_in_one_line() -> None:
    assert told(ERROR) == "f.jsonl:3: p/1: is [wrong]; mend it"
    assert told(WARNING) == "looks odd"


def test_the_table_has_errors_first_and_every_word() -> None:
    lines = shown([WARNING, ERROR]).splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["error", "warning"]
    assert all(word in lines[2] for word in ("p/1", "f.jsonl:3", "is [wrong]; mend it"))
    assert lines[-1] == "1 error (kind a), 1 warning (kind b)"
    assert shown([]) == "no problems found\n"


def test_a_long_list_is_cut_by_kind_and_says_so() -> None:
    found = [ERROR] * 5 + [WARNING] * 2
    text = shown(found, limit=2)
    assert text.count("mend it") == text.count("looks odd") == 2
    assert "3 more; --limit 5 shows them" in text
    assert summary(found) == "5 errors (kind a), 2 warnings (kind b)"


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A test pair that is a training pair: measuring it says nothing of unseen contexts."""
    row = {"prefix": "value = compute(first, second)\nresult = ", "buggy": "value + 1", "fixed": "value + 2"}
    path = tmp_path / "bad.jsonl"
    rows = [{**row, "id": "one", "split": "train"}, {**row, "id": "two", "split": "test"}]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def words(verb: str, folder: Path, data: Path, *more: str) -> list[str]:
    own = {"train": data, "validation": "null", "test": data, "batch_size": 1}
    files = [word for key, value in own.items() for word in (f"--data.init_args.{key}", str(value))]
    return [verb, *arguments(folder, *files, *NO_MEASURE, *more)[1:]]


def test_the_command_ends_with_1_where_an_error_is(
    bad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_here(words("check", tmp_path / "out", bad), tmp_path / "cache")
    assert ended.value.code == 1
    told_of = capsys.readouterr().out
    assert "error" in told_of
    assert "train = test" in told_of
    assert not (tmp_path / "out").exists()


def test_the_packaged_pairs_are_without_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_here(["check", *arguments(tmp_path / "out")[1:]], tmp_path / "cache")
    assert "error" not in capsys.readouterr().out.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_fit_refuses_errors_before_anything_is_written(bad: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test pairs are .*; or go on all the same with --check warn$"):
        run_here(words("fit", tmp_path / "out", bad), tmp_path / "cache")
    assert not (tmp_path / "out").exists()


def test_a_fit_that_only_warns_goes_on(bad: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "hotfix"):
        run_here(words("fit", tmp_path / "out", bad, "--check", "warn"), tmp_path / "c")
    assert (tmp_path / "out" / "results.json").is_file()
    assert any("name another file" in record.message for record in caplog.records)


def test_a_fit_can_leave_the_look_out(bad: Path, tmp_path: Path) -> None:
    with mock.patch("hotfix.cli.find_problems", side_effect=AssertionError):
        run_here(words("fit", tmp_path / "out", bad, "--check", "off"), tmp_path / "c")
    assert (tmp_path / "out" / "results.json").is_file()

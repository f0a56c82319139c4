"""What is written is strict JSON of the promised layout, and damaged files are named."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import hotfix
from hotfix.errors import DataError, StorageError
from hotfix.report import Comparison, Estimate, Results, collect_machine, collect_versions, load_results, write_records
from hotfix.report.results import to_json

UNDEFINED = dict.fromkeys(("difference", "low", "high", "detectable"))


def filled() -> Results:
    results = Results("demo", seed=7, machine={"accelerator": "none"})
    results.add("zebra", "held_out", "before", {"p_fixed": Estimate(0.25, 4, 0.1, 0.5)})
    results.add("zebra", "held_out", "after", {"p_fixed": Estimate(0.75, 4, math.nan, math.inf)})
    results.add_tests("zebra", "held_out", {"p_fixed": Comparison("exact McNemar", 0.5, 0.5)})
    results.add("zebra", "all", "after", {"kl": Estimate(0.1, 2, 0.0, 0.2)})
    results.add("ant", "all", "before", {"leak_rate": Estimate(1.0, 2, 0.3, 1.0), "buggy_rate": Estimate(0, 2, 0, 1)})
    results.add_train({"steps": 30, "loss": math.nan})
    results.add_train({"epochs": np.float64(2)})
    results.add_seconds("train", 1.25)
    results.add_seconds("test", 2)
    results.add_seconds("train", 0.25)
    return results


def test_written_file_has_the_layout_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "run" / "results.json"
    filled().write(path)
    content = load_results(path)
    assert content == filled().to_dict()
    assert list(content) == ["hotfix", "name", "seed", "train", "tasks", "seconds", "versions", "machine"]
    assert (content["hotfix"], content["name"], content["seed"]) == (hotfix.__version__, "demo", 7)
    assert content["tasks"]["zebra"]["held_out"] == {
        "before": {"p_fixed": {"value": 0.25, "n": 4, "low": 0.1, "high": 0.5}},
        "after": {"p_fixed": {"value": 0.75, "n": 4, "low": None, "high": None}},
        "tests": {"p_fixed": {"test": "exact McNemar", "p": 0.5, "effect": 0.5, **UNDEFINED, "q": 0.5}},
    }
    assert content["seconds"] == {"train": 1.5, "test": 2}
    assert content["machine"]["accelerator"] == "none"


def test_groups_stand_beside_what_they_are_part_of() -> None:
    results = filled()
    results.add_groups("ant", "all", "before", {"api": {"buggy_rate": Estimate(1.0, 1, 0.2, 1.0)}})
    results.add_groups("ant", "all", "tests", {"api": {"buggy_rate": Comparison("exact McNemar", 1.0, 0.0)}})
    part = results.to_dict()["tasks"]["ant"]["all"]
    assert part["before"]["buggy_rate"]["value"] == 0
    assert part["groups"] == {
        "api": {
            "before": {"buggy_rate": {"value": 1.0, "n": 1, "low": 0.2, "high": 1.0}},
            "tests": {"buggy_rate": {"test": "exact McNemar", "p": 1.0, "effect": 0.0, **UNDEFINED, "q": 1.0}},
        }
    }
    assert "groups" not in filled().to_dict()["tasks"]["ant"]["all"]
    with pytest.raises(ValueError, match="'later'"):
        results.add_groups("ant", "all", "later", {})  # type: ignore[arg-type]


def test_order_is_kept_where_it_means_something() -> None:
    content = filled().to_dict()
    assert list(content["tasks"]) == ["zebra", "ant"]
    assert list(content["tasks"]["zebra"]) == ["held_out", "all"]
    assert list(content["tasks"]["ant"]["all"]["before"]) == ["leak_rate", "buggy_rate"]
    assert list(content["seconds"]) == ["train", "test"]
    for part in ("train", "versions", "machine"):
        assert list(content[part]) == sorted(content[part])
    assert content["train"] == {"epochs": 2, "loss": None, "steps": 30}


def test_written_bytes_do_not_depend_on_the_run(tmp_path: Path) -> None:
    filled().write(tmp_path / "a")
    filled().write(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_timed_adds_up_also_when_the_block_fails() -> None:
    results = Results("demo")
    with results.timed("train"):
        pass
    with pytest.raises(KeyError), results.timed("broken"):
        raise KeyError
    assert list(results.to_dict()["seconds"]) == ["train", "broken"]
    assert all(0 <= seconds < 1 for seconds in results.to_dict()["seconds"].values())


def test_unknown_moment_is_refused() -> None:
    with pytest.raises(ValueError, match="'when' must be 'before' or 'after', not 'during'"):
        Results("demo").add("a", "b", "during", {})  # type: ignore[arg-type]


def test_unwritable_results_are_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "results.json").mkdir()
    with pytest.raises(StorageError, match=r"results\.json: can't be written: it is a folder"):
        filled().write(tmp_path / "results.json")


def test_json_values() -> None:
    value = {"a": np.float32(0.5), "b": np.array([1.0, np.nan]), 3: (True, None, -math.inf), "p": Path("x")}
    assert to_json(value) == {"a": 0.5, "b": [1.0, None], "3": [True, None, None], "p": "x"}
    with pytest.raises(TypeError, match="set can't be written as JSON"):
        to_json({"a": {1}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"tasks": {', r"results\.json:1: not JSON .* damaged or cut off: run the evaluation again"),
        (b"", r"results\.json:1: not JSON"),
        (b'{\n"tasks": {},\n oops}', r"results\.json:3: not JSON"),
        (b'{"tasks": {"a": NaN}}', "not strict JSON in UTF-8 .NaN is not a JSON value"),
        (b"\xff\xfe", "not strict JSON in UTF-8"),
        (b"[]", "no object with 'tasks' in it; name|no object with 'tasks' in it, so not a results file; name the"),
        (b'{"tasks": 3}', "not a results file"),
        (b'{"tasks": {"email": [1]}}', "task 'email' must be an object of slices"),
        (b'{"tasks": {"email": {"all": 1}}}', "task 'email' must be an object of slices"),
        (b'{"tasks": {"email": {"all": {"after": {"kl": 0.5}}}}}', "'after' of email/all must be an object of metrics"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_results(tmp_path / "results.json")


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.json: can't be read \(No such file or directory\); name the"):
        load_results(tmp_path / "absent.json")
    with pytest.raises(DataError, match="Is a directory"):
        load_results(tmp_path)


def test_records_are_one_object_a_line(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [{"id": "a", "text": "é\n\u2028"}, {"id": "b", "kl": math.nan}]
    assert write_records(tmp_path / "records.jsonl", iter(records)) == 2
    lines = (tmp_path / "records.jsonl").read_bytes().decode().rstrip("\n").split("\n")
    assert [json.loads(line) for line in lines] == [{"id": "a", "text": "é\n\u2028"}, {"id": "b", "kl": None}]


def test_records_are_whole_or_not_there(tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, object]]:
        yield {"id": "new"}
        raise KeyError("stop")

    path = tmp_path / "records.jsonl"
    write_records(path, [{"id": "old"}])
    with pytest.raises(KeyError, match="stop"):
        write_records(path, broken())
    assert path.read_text() == '{"id": "old"}\n'


def test_versions_are_those_of_the_installed_packages() -> None:
    versions = collect_versions()
    assert versions["python"] == platform.python_version()
    assert versions["numpy"] == np.__version__
    for package in ("torch", "lightning", "transformers", "peft"):
        assert versions[package] == metadata.version(package)


def test_missing_packages_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package == "peft":
            raise metadata.PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(metadata, "version", version)
    assert "peft" not in collect_versions()
    assert collect_versions()["torch"] == "1"


def test_machine_is_described_without_its_name() -> None:
    machine = collect_machine()
    assert sorted(machine) == ["cores", "cpu", "memory_gib", "platform"]
    assert isinstance(machine["cores"], int)
    assert machine["cores"] >= 1
    assert machine["cpu"]
    assert isinstance(machine["memory_gib"], float)
    meminfo = Path("/proc/meminfo").read_text().split()
    assert machine["memory_gib"] == pytest.approx(int(meminfo[1]) / 2**20, abs=0.1)
    assert platform.node() not in json.dumps(machine)


def test_import_is_light() -> None:
    code = (
        "import sys, hotfix.report; print([m for m in ('torch', 'scipy', 'statsmodels', 'rich') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

"""Each published data set's own columns become pairs, and what can't become one is passed over or refused."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pytest

from hotfix.data import SVEN, HubDataset, JesseCSV, ManySStuBs4J, PairFiles, PrivacyPairs
from hotfix.data.jesse_csv import BUG_TYPES, suffix_lines
from hotfix.data.many_sstubs import patch_lines
from hotfix.data.privacy_pairs import line_excerpts
from hotfix.data.sven import project_of
from hotfix.errors import ConfigError, DataError
from hotfix.tasks.bug_fix import is_redaction
from hotfix.types import SPLITS


def write_csv(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def jesse_row(number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "identifier": "m",
        "condition": "".join(f"line{i}();\n" for i in range(50)) + "        ",
        "bug": "int x = a, b;",
        "fix": "int x = b;",
        "post_conditional": "".join(f"\nafter{i}();" for i in range(40)),
        "bugType": "CHANGE_OPERAND",
        "buggy_commit": f"c{number}",
        "repository_url": f"https://host/o/r{number % 40}",
        "bug_timestamp": "1",
        "num_commits_til_fix": "2",
        **more,
    }


def jesse(file: str, **more: Any) -> JesseCSV:
    return JesseCSV(file, **{"validation": file, "test": file, "tokenizer_name": "tiny", "retain": None, **more})


def test_jesse_prompts_end_with_thirty_lines_and_keep_ten_to_twenty_behind(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "s.csv", [jesse_row(i) for i in range(60)])
    data = jesse(file)
    pairs = [pair for split in SPLITS for pair in data.pairs(split)]
    assert len(pairs) == 60
    assert {pair.prefix for pair in pairs} == {"".join(f"line{i}();\n" for i in range(21, 50)) + "        "}
    assert {pair.buggy for pair in pairs} == {"int x = a, b;"}
    assert {pair.rule for pair in pairs} == {"CHANGE_OPERAND"}
    drawn = [pair.suffix.count("\n") for pair in pairs]
    assert set(drawn) == set(range(10, 21))
    assert all(pair.suffix.startswith("\nafter0();") for pair in pairs)
    assert drawn == [pair.suffix.count("\n") for split in SPLITS for pair in jesse(file).pairs(split)]


def test_jesse_splits_by_project_unless_asked(tmp_path: Path) -> None:
    """The published split is by row (defect 9)."""
    file = write_csv(tmp_path / "s.csv", [jesse_row(i, fix=f"int x = {i};") for i in range(200)])
    by_project, by_row = jesse(file), jesse(file, split_by="row")
    projects = [{p.meta["repository_url"] for p in by_project.pairs(split)} for split in SPLITS]
    assert sum(map(len, projects)) == 40
    assert {p.meta["repository_url"] for p in by_row.pairs("train")} & {
        p.meta["repository_url"] for p in by_row.pairs("test")
    }


def test_jesse_keeps_twelve_bug_types(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kinds = [*BUG_TYPES, "CHANGE_MODIFIER", "SWAP_ARGUMENTS"]
    file = write_csv(tmp_path / "s.csv", [jesse_row(i, bugType=kind) for i, kind in enumerate(kinds)])
    one = {"validation": None, "test": None}
    with caplog.at_level(logging.INFO):
        assert {pair.rule for pair in jesse(file, **one).pairs("train")} == set(BUG_TYPES)
    assert "2 of 14 pairs left out by rules or min_prefix_lines" in caplog.text
    assert len(BUG_TYPES) == 12
    assert len(jesse(file, **one, rules=[]).pairs("train")) == 14
    assert [p.rule for p in jesse(file, **one, rules=["SWAP_ARGUMENTS"]).pairs("train")] == ["SWAP_ARGUMENTS"]
    with pytest.raises(DataError, match=r"every pair is left out by .*; they are of CHANGE_CALLER_IN_FUNCTION_CALL, "):
        jesse(file, rules=["none"]).pairs("train")


def test_suffix_lines_without_a_leading_line_break() -> None:
    text = "\n".join(map(str, range(30)))
    assert {len(suffix_lines(text, str(i)).splitlines()) for i in range(99)} == set(range(10, 21))
    assert suffix_lines("", "a") == ""


@pytest.mark.parametrize(
    ("lines", "floor", "expected"), [(0, 0, 3), (2, 0, 3), (1, 0, 3), (0, 1, 2), (0, 2, 1), (1, 1, 0)]
)
def test_prefix_lines_and_their_floor(tmp_path: Path, lines: int, floor: int, expected: int) -> None:
    rows = [{"prefix": p, "buggy": "1", "fixed": "2"} for p in ("a\nb\n    ", "a\nb", "b")]
    data = PairFiles(
        write(tmp_path / "a.jsonl", rows), tokenizer_name="tiny", prefix_lines=lines, min_prefix_lines=floor
    )
    if not expected:
        with pytest.raises(DataError, match="every pair is left out"):
            data.pairs("train")
        return
    found = [pair.prefix for pair in data.pairs("train")]
    assert len(found) == expected
    assert found[0] == {0: "a\nb\n    ", 1: "    ", 2: "b\n    "}[lines]
    with pytest.raises(ConfigError, match="prefix_lines and min_prefix_lines count lines"):
        PairFiles("a", tokenizer_name="tiny", prefix_lines=-1)


def test_columns_of_any_name(tmp_path: Path) -> None:
    rows = [{"before": "1", "after": "2", "context": "x = ", "prefix": "not this", "kind": "k"}]
    file = write(tmp_path / "a.jsonl", rows)
    names = {"prefix": "context", "buggy": "before", "fixed": "after", "rule": "kind"}
    [pair] = PairFiles(file, tokenizer_name="tiny", columns=names).pairs("train")
    assert (pair.prefix, pair.buggy, pair.fixed, pair.rule) == ("x = ", "1", "2", "k")
    with pytest.raises(
        DataError, match=r"a.jsonl:1: column 'post' missing; this row has 'before'.*data.init_args.columns"
    ):
        PairFiles(file, tokenizer_name="tiny", columns={"suffix": "post"}).pairs("train")


PATCH = """\
diff --git a/A.java b/A.java
--- a/A.java
+++ b/A.java
@@ -10,4 +10,5 @@ class A
 void f() {
-    int a = 1;
+    int a = 2;
+    log(a);
{blank}
@@ -40,3 +41,3 @@ class A
 void g() {
-\tb(1);
-\tc(1);
+\tb(2);
 }
\\ No newline at end of file
""".replace("{blank}", " ")


def test_a_patch_is_read_at_the_bug_s_line() -> None:
    assert patch_lines(PATCH, 11) == ("void f() {\n    ", "int a = 1;", "int a = 2;\n    log(a);", "\n")
    assert patch_lines(PATCH, 42) == patch_lines(PATCH, 41) == ("void g() {\n\t", "b(1);\n\tc(1);", "b(2);", "\n}")
    assert patch_lines(PATCH, 12) is patch_lines(PATCH, 10) is patch_lines(PATCH) is None
    assert patch_lines("@@ -1 +1 @@\n-a\n+b") == ("", "a", "b", "")
    assert patch_lines("@@ -1 +0,0 @@\n-a\n") is patch_lines("") is None
    both = "@@ -1,3 +1,3 @@\n-a\n+b\n c\n-d\n+e\n"
    assert patch_lines(both, 1) == ("", "a", "b", "\nc\ne")
    assert patch_lines(both, 3) == ("b\nc\n", "d", "e", "")


def test_many_sstubs(tmp_path: Path) -> None:
    row = {
        "bugType": "CHANGE_NUMERAL",
        "fixCommitSHA1": "abc",
        "bugFilePath": "A.java",
        "projectName": "o.r",
        "bugLineNum": 11,
        "bugNodeStartChar": 7,
        "sourceBeforeFix": "1",
        "sourceAfterFix": "2",
    }
    rows = [
        {**row, "fixPatch": PATCH},
        {**row, "bugLineNum": 42, "patch": PATCH},
        {**row, "bugLineNum": 1, "patch": PATCH},
    ]
    (tmp_path / "sstubs.json").write_text(json.dumps([*rows, {**row, "patch": None}]), encoding="utf-8")
    pairs = ManySStuBs4J(str(tmp_path / "sstubs.json"), tokenizer_name="tiny").pairs("train")
    assert [p.buggy for p in pairs] == ["int a = 1;", "b(1);\n\tc(1);"]
    assert pairs[0].id == "o.r/abc/A.java/11/7/CHANGE_NUMERAL"
    assert (pairs[0].rule, pairs[0].meta["projectName"]) == ("CHANGE_NUMERAL", "o.r")
    (tmp_path / "b.json").write_text(json.dumps([row]), encoding="utf-8")
    with pytest.raises(DataError, match=r"b.json:1: no column 'fixPatch' or 'patch'; this row has 'bugType'"):
        ManySStuBs4J(str(tmp_path / "b.json"), tokenizer_name="tiny").pairs("train")


def sven_row(number: int, **more: Any) -> dict[str, Any]:
    before, after = "def f(q):\n    run(q)\n    log()\n", "def f(q):\n    run(quote(q))\n    log()\n"
    spans = [{"char_start": 18, "char_end": 24, "chars": "quote("}, {"char_start": 25, "char_end": 26, "chars": ")"}]
    return {
        "func_name": f"f{number}",
        "func_src_before": before,
        "func_src_after": after,
        "line_changes": {},
        "char_changes": {"deleted": [], "added": spans},
        "commit_link": f"github.com/o/r{number // 2}/commit/c{number}",
        "vul_type": "cwe-078",
        **more,
    }


def test_sven(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    same = sven_row(2, func_src_after=sven_row(2)["func_src_before"], char_changes={"deleted": [], "added": []})
    wrong = sven_row(3, char_changes={"deleted": [{"char_start": 0, "char_end": 3, "chars": "xyz"}], "added": []})
    bare = {key: value for key, value in sven_row(4).items() if key != "char_changes"}
    file = write(tmp_path / "train.jsonl", [sven_row(0), same, wrong, bare])
    with caplog.at_level(logging.INFO):
        data = SVEN(file, tokenizer_name="tiny")
        pairs = data.pairs("train")
    assert [pair.id for pair in pairs] == ["train.jsonl:1", "train.jsonl:3", "train.jsonl:4"]
    assert "train.jsonl:2: passed over, nothing changed" in caplog.text
    assert "train.jsonl:3: char_changes don't fit the texts" in caplog.text
    assert "train.jsonl:4" not in caplog.text
    for pair in pairs:
        assert (pair.prefix, pair.buggy) == ("def f(q):\n    ", "run(q)")
        assert (pair.fixed, pair.suffix) == ("run(quote(q))", "\n    log()\n")
        assert (pair.rule, pair.meta["func_name"][0]) == ("cwe-078", "f")
        assert pair.edits is not None
        assert [pair.fixed[a:b] for a, b in pair.edits.fixed] == ["quote(", ")"]
    assert pairs[0].meta["project"] == "o/r0"
    assert data.encoded("train")[0].fixed.edited[:10] == [True] * 5 + [False, True, False, False, False]


def test_sven_splits_by_project(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [sven_row(i) for i in range(80)])
    data = SVEN(file, file, file, tokenizer_name="tiny")
    projects = [{p.meta["project"] for p in data.pairs(split)} for split in SPLITS]
    assert sum(map(len, projects)) == 40


@pytest.mark.parametrize(
    ("link", "project"),
    [
        ("github.com/o/r.x/commit/1", "o/r.x"),
        ("https://github.com/o/r/commit/1", "o/r"),
        ("https://gitlab.com/o/r/-/commit/1", "o/r"),
        ("", ""),
        ("commit/1", ""),
    ],
)
def test_projects_of_links(link: str, project: str) -> None:
    assert project_of(link) == project


def privacy_row(number: int, before: str, after: str, **more: Any) -> dict[str, Any]:
    return {
        "func_name": number,
        "bug_type": "EMAIL_AND_IP",
        "vul_type": "EMAIL_AND_IP",
        "func_src_before": before,
        "func_src_after": after,
        "line_changes": {"deleted": [], "added": []},
        **more,
    }


TWO = (
    "# by ann@corp.io\nhost = '10.1.2.3'  # or bob@corp.io\ncall()\ncc = 'cy@corp.io'",
    "# by <EMAIL>\nhost = '<IP-Address>'  # or <EMAIL>\ncall()\ncc = '<EMAIL>'",
)


def test_privacy_pairs_are_one_per_stretch_of_lines_with_redacted_prefixes(tmp_path: Path) -> None:
    """Wrong offsets of deleted stretches (defect 4) do no harm; rows without a change (defect 9) are passed over."""
    wrong = {"deleted": [{"char_start": 60, "char_end": 90, "chars": "cc = 'cy@corp.io'"}], "added": []}
    rows = [
        privacy_row(7, *TWO, char_changes=wrong),
        privacy_row(8, "same", "same"),
        privacy_row(9, "a b@c.de", "a <EMAIL>"),
    ]
    file = write(tmp_path / "EMAIL_AND_IP.jsonl", rows)
    pairs = PrivacyPairs(file, tokenizer_name="tiny").pairs("train")
    assert [pair.id for pair in pairs] == ["7#1", "7#2", "7#3", "9#1"]
    first, second, third, last = pairs
    assert (first.prefix, first.buggy, first.fixed) == ("", "# by ann@corp.io", "# by <EMAIL>")
    assert second.prefix == "# by <EMAIL>\n"
    assert (second.buggy, second.fixed) == (
        "host = '10.1.2.3'  # or bob@corp.io",
        "host = '<IP-Address>'  # or <EMAIL>",
    )
    assert (third.buggy, third.fixed, third.suffix) == ("cc = 'cy@corp.io'", "cc = '<EMAIL>'", "")
    assert third.prefix == TWO[1][: TWO[1].index("cc")]
    assert all(is_redaction(pair) for pair in pairs)
    assert all(pair.prefix + pair.fixed + pair.suffix == TWO[1] for pair in pairs[:3])
    assert last.meta["document"] == "9"


def test_privacy_documents_stay_in_one_split(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [privacy_row(i, *TWO) for i in range(60)])
    data = PrivacyPairs(file, file, file, tokenizer_name="tiny")
    documents = [{pair.meta["document"] for pair in data.pairs(split)} for split in SPLITS]
    assert all(documents)
    assert sum(map(len, documents)) == 60
    assert sum(len(data.pairs(split)) for split in SPLITS) == 180


def test_line_excerpts_of_equal_texts() -> None:
    assert list(line_excerpts("a", "a")) == []


def folder(path: Path, **splits: int) -> str:
    path.mkdir()
    for split, count in splits.items():
        rows = [
            {"prefix": f"{split}{i} = ", "buggy": "1", "fixed": "2", "id": f"{split}{i}", "task": f"t{i}"}
            for i in range(count)
        ]
        datasets.Dataset.from_list(rows).to_parquet(path / f"{split}.parquet")
    return str(path)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("cache")
def test_a_hub_data_set_keeps_its_own_splits(tmp_path: Path) -> None:
    name = folder(tmp_path / "set", train=5, validation=3, test=2)
    data = HubDataset(name, name, name, tokenizer_name="tiny")
    assert {s: [p.id for p in data.pairs(s)] for s in SPLITS} == {
        s: [f"{s}{i}" for i in range(n)] for s, n in zip(SPLITS, (5, 3, 2), strict=True)
    }
    one = HubDataset(f"{name}@validation", tokenizer_name="tiny")
    assert [p.id for p in one.pairs("train")] == ["validation0", "validation1", "validation2"]
    part = HubDataset(f"{name}@train[:2]", tokenizer_name="tiny")
    assert [p.id for p in part.pairs("train")] == ["train0", "train1"]


@pytest.mark.usefixtures("cache")
def test_a_hub_data_set_with_one_split_is_dealt(tmp_path: Path) -> None:
    name = folder(tmp_path / "set", train=100)
    data = HubDataset(name, name, name, tokenizer_name="tiny")
    counts = [len(data.pairs(split)) for split in SPLITS]
    assert sum(counts) == 100
    assert min(counts) > 0


@pytest.mark.usefixtures("cache")
def test_a_hub_data_set_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: can't be loaded: .*; expected owner/name, owner/name:configuration"):
        HubDataset(str(tmp_path / "nowhere"), tokenizer_name="tiny").pairs("train")
    name = folder(tmp_path / "set", train=3)
    with pytest.raises(DataError, match=r"can't be loaded: .*[Uu]nknown split"):
        HubDataset(f"{name}@dev", tokenizer_name="tiny").pairs("train")


def test_hub_data_sets_without_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(
        DataError, match=r"owner/name: Hugging Face data sets need the datasets library; pip install hotfix"
    ):
        HubDataset("owner/name", tokenizer_name="tiny").pairs("train")

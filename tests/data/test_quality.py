"""Each kind of problem is found where it is, and clean data has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hotfix.data import CodePair, PairFiles, quality
from hotfix.data.humaneval import load_problems
from hotfix.data.quality import (
    Finding,
    address_findings,
    contamination_findings,
    contradiction_findings,
    duplicate_findings,
    find_problems,
    group_findings,
    mask_findings,
    near_duplicate_findings,
)

ROOT = Path(__file__).parents[2]
PACKAGED = [str(ROOT / "data" / f"{name}.jsonl") for name in ("email_stubs", "python_idioms")]
LONG = "".join(f"total{i} = compute{i}(first, second) + offset * {i} - base[index]\n" for i in range(9))


def pair(name: str, prefix: str = "x = ", buggy: str = "1", fixed: str = "2", **more: Any) -> CodePair:
    return CodePair(name, prefix, buggy, fixed, source=f"p.jsonl:{name}", **more)


def brief(findings: Any) -> list[tuple[str, str, str]]:
    return [(f.severity, f.kind, f.id) for f in findings]


def module(path: Path, rows: list[dict[str, Any]], **more: Any) -> PairFiles:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return PairFiles(**{"train": str(path), "tokenizer_name": "tiny", "retain": None, **more})


def test_train_that_is_test_is_one_error(tmp_path: Path) -> None:
    """The published privacy data has one file for training and validation (defect 9)."""
    rows = [{"id": str(i), "prefix": f"x{i} = ", "buggy": "1", "fixed": "2"} for i in range(5)]
    file = str(tmp_path / "all.jsonl")
    found = find_problems(module(tmp_path / "all.jsonl", rows, validation=file))
    assert brief(found) == [("error", "train = validation", "")]
    assert found[0].text == "5 of 5 validation pairs are trained on, so validation measures memory"
    assert (
        find_problems(module(tmp_path / "all.jsonl", rows, validation=file, split_by="row", fractions=(0.5, 0.5, 0)))
        == []
    )


def test_copies_within_and_across_splits() -> None:
    train = [pair("a"), pair("b"), pair("c", "y = ")]
    test = [pair("d", "y = "), pair("e", "z = "), pair("f", "v = ")]
    found = list(duplicate_findings({"train": train, "validation": [], "test": test}))
    assert brief(found) == [("warning", "duplicate pair", "b"), ("warning", "pair in two splits", "d")]
    assert found[0].text == "the same as 'a' (p.jsonl:a)"
    assert found[1].source == "p.jsonl:d"
    assert "'c'" in found[1].text


def test_half_a_split_that_is_trained_on_is_an_error() -> None:
    found = list(duplicate_findings({"train": [pair("a")], "validation": [], "test": [pair("b"), pair("c", "y = ")]}))
    assert brief(found) == [("error", "train = test", "")]


def test_contradictions_need_the_same_place() -> None:
    others = [pair(f"n{i}", f"y{i} = ") for i in range(30)]
    pairs = [pair("a"), pair("b", buggy="2", fixed="3"), pair("c", "z = ", "2", "1"), *others]
    found = list(contradiction_findings(pairs))
    assert brief(found) == [("warning", "contradicting pairs", "b")]
    assert found[0].text == "unlearns '2', which 'a' (p.jsonl:a) teaches at the same place"


def test_many_contradictions_are_an_error() -> None:
    found = brief(contradiction_findings([pair("a"), pair("b", buggy="2", fixed="1")]))
    assert found[-1] == ("error", "contradicting pairs", "")


@pytest.mark.parametrize(
    ("buggy", "fixed", "severity"),
    [
        ("me", "ann@corp.io", "error"),
        ("ann@corp.io, 1", "ann@corp.io, 2", "warning"),
        ("ann@corp.io", "bob@corp.io", "error"),
        ("ann@corp.io", "<EMAIL>", None),
        ("ann@corp.io", "user@example.com", None),
    ],
)
def test_addresses_in_the_fixed_side(buggy: str, fixed: str, severity: str | None) -> None:
    found = list(address_findings([pair("a", "by ", buggy, fixed)]))
    assert [f.severity for f in found] == ([severity] if severity else [])
    assert not any("ann@" in f.text or "bob@" in f.text for f in found), "a finding must not repeat the address"


def test_an_address_that_begins_in_the_prefix() -> None:
    assert brief(address_findings([pair("a", "mail ann", "(x)", "@corp.io")])) == [
        ("error", "address in the fixed side", "a")
    ]


def test_a_statement_that_is_longer_than_the_context(tmp_path: Path) -> None:
    """The published masks lose what a text loses by truncation, without a word (defect 5)."""
    row = {"id": "long", "prefix": "x = ", "buggy": "1" * 50, "fixed": "2" * 50}
    short = {"id": "short", "prefix": "x = ", "buggy": "1", "fixed": "2"}
    found = find_problems(module(tmp_path / "a.jsonl", [row, short], max_length=40, overlong="left"))
    assert brief(found) == [("error", "truncated diff", "long")]
    assert found[0].source == f"{tmp_path}/a.jsonl:1"
    assert found[0].text.startswith("pair 'long' has 54 tokens")
    assert find_problems(module(tmp_path / "a.jsonl", [row, short], max_length=40, overlong="drop")) == []


def test_sides_that_are_the_same_tokens(tmp_path: Path) -> None:
    row = {"id": "same", "prefix": "x = ", "buggy": "1", "fixed": "1\nab", "suffix": "\nabcdef"}
    found = find_problems(module(tmp_path / "a.jsonl", [row]))
    assert brief(found) == [("error", "empty mask", "same")]
    assert found[0].text == "pair 'same': this tokenizer makes the same tokens of both sides"


def test_masks_that_training_would_cut(tmp_path: Path) -> None:
    data = module(tmp_path / "a.jsonl", [{"id": "a", "prefix": "x = ", "buggy": "123", "fixed": "456"}])
    [whole] = data.encoded("train")
    cut = whole._replace(fixed=whole.fixed._replace(ids=whole.fixed.ids[:1], edited=whole.fixed.edited[:1]))
    bare = whole._replace(buggy=whole.buggy._replace(edited=[False] * len(whole.buggy.ids)))
    pairs = data.pairs("train")
    assert brief(mask_findings(pairs, lambda _: whole)) == []
    assert brief(mask_findings(pairs, lambda _: cut)) == [("warning", "truncated diff", "a")]
    assert brief(mask_findings(pairs, lambda _: bare)) == [("error", "empty mask", "a")]


@pytest.mark.parametrize("part", ["prompt", "canonical_solution"])
def test_humaneval_problems_are_found(part: str) -> None:
    problems = load_problems()
    pairs = [pair(p.task_id, "# exercise\n", "pass", getattr(p, part)) for p in problems]
    found = list(contamination_findings(pairs))
    assert {f.severity for f in found} <= {"error"}
    assert len(found) >= (164 if part == "prompt" else 140)
    assert all(f"of {f.id}" in f.text for f in found)


def test_humaneval_is_found_under_another_layout() -> None:
    [problem] = load_problems(1)
    squeezed = " ".join((problem.prompt + problem.canonical_solution).split())
    assert len(list(contamination_findings([pair("a", "", "x", squeezed)]))) == 1


def test_ordinary_code_is_not_humaneval() -> None:
    data = PairFiles(PACKAGED, tokenizer_name="tiny", retain=None)
    assert len(data.pairs("train")) > 100
    assert list(contamination_findings(data.pairs("train"))) == []


def test_groups_in_two_splits() -> None:
    train, test = (
        [pair(f"{n}{i}", f"{n}{i}", meta={"task": f"t{i}"}) for i in r]
        for n, r in (("a", range(4)), ("b", range(3, 6)))
    )
    found = list(group_findings({"train": train, "validation": [], "test": test}))
    assert [f.text for f in found] == ["1 of 3 tasks in test are in train as well"]
    assert found[0].hint == "set data.init_args.split_by to task"


def test_near_duplicates_across_splits() -> None:
    train = [pair("a", LONG), pair("b", "other = 1\n")]
    near, same, far = pair("c", LONG + "# so\n"), pair("d", LONG), pair("e", "def g(): return nothing\n")
    found = list(near_duplicate_findings({"train": train, "validation": [], "test": [near, same, far]}))
    assert brief(found) == [("warning", "near-duplicate across splits", "c")]
    assert "% like 'a' (p.jsonl:a) in train" in found[0].text


def test_errors_come_first_and_the_log_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows: list[dict[str, Any]] = [
        {"id": str(i), "prefix": "by ", "buggy": "me", "fixed": "him" if i < 2 else "ann@corp.io"} for i in range(3)
    ]
    found = find_problems(module(tmp_path / "a.jsonl", rows))
    assert brief(found) == [("error", "address in the fixed side", "2"), ("warning", "duplicate pair", "1")]
    assert "data: 1 x address in the fixed side (error)" in caplog.text
    assert all(isinstance(finding, Finding) for finding in found)


def test_the_packaged_pairs_are_clean() -> None:
    data = PairFiles(PACKAGED, PACKAGED, PACKAGED, tokenizer_name="tiny", max_length=2000)
    assert [f for f in find_problems(data) if f.severity == "error"] == []


def test_of_very_many_some_are_looked_at_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(quality, "MANY", 4)
    rows = [{"id": str(i), "prefix": f"x{i} = ", "buggy": "1", "fixed": "2"} for i in range(8)]
    rows[3]["fixed"] = rows[4]["fixed"] = "ann@corp.io"
    found = find_problems(module(tmp_path / "p.jsonl", rows))
    assert brief(found) == [("error", "address in the fixed side", "4")], "of 0, 2, 4 and 6"
    assert "data: 4 of 8 train pairs are looked at" in caplog.text

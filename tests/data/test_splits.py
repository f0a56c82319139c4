"""Groups stay together, rows that are added move none, and the fractions come out."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hotfix.data import PairFiles
from hotfix.data.schema import CodePair
from hotfix.data.splits import GROUPS, Splitter, assign, group_of
from hotfix.errors import ConfigError, DataError
from hotfix.types import SPLITS


def pairs(count: int, groups: int = 50, column: str = "project") -> list[CodePair]:
    return [CodePair(f"p{i}", f"x{i} = ", "1", "2", meta={column: f"g{i % groups}"}) for i in range(count)]


@pytest.mark.parametrize("kind", GROUPS)
def test_no_group_is_in_two_splits(kind: str) -> None:
    for column in GROUPS[kind]:
        dealt = Splitter()(pairs(400, column=column), "f")
        found = {split: {group_of(p, kind) for p in dealt if p.split == split} for split in SPLITS}
        assert all(found.values())
        assert sum(map(len, found.values())) == 50


def test_rows_that_are_added_move_none() -> None:
    few, many = pairs(100), pairs(300, groups=80)
    random.Random(0).shuffle(many)
    before = {p.meta["project"]: p.split for p in Splitter()(few, "f")}
    after = {p.meta["project"]: p.split for p in Splitter()(many, "f")}
    assert before == {group: after[group] for group in before}


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.5, 0.0, 0.5), (1.0, 0.0, 0.0), (0.2, 0.3, 0.5)])
def test_fractions_come_out(fractions: tuple[float, float, float]) -> None:
    counts = Counter(assign(f"g{i}", fractions) for i in range(4000))
    for split, fraction in zip(SPLITS, fractions, strict=True):
        assert abs(counts[split] / 4000 - fraction) < 0.03
        assert (counts[split] == 0) == (fraction == 0)


def test_another_seed_deals_anew_and_the_same_does_not() -> None:
    first, again, other = ([assign(f"g{i}", seed=seed) for i in range(200)] for seed in (0, 0, 1))
    assert first == again != other


def test_the_deal_is_pinned() -> None:
    """Patches were trained on these splits; a change of the hash would mix them up."""
    dealt = [i for i in range(60) if assign(f"g{i}") == "test"]
    assert dealt == [13, 16, 31]


def test_copies_of_a_row_go_together() -> None:
    twins = [CodePair(f"{n}{i}", f"x{i} = ", "1", "2") for n in "ab" for i in range(60)]
    dealt = Splitter("row")(twins, "f")
    assert [p.split for p in dealt[:60]] == [p.split for p in dealt[60:]]
    assert {p.split for p in dealt} == set(SPLITS)


def test_auto_takes_the_widest_group_that_most_rows_have() -> None:
    both = [
        CodePair(f"p{i}", "x = ", "1", str(i), meta={"repository_url": f"r{i % 9}", "commit": f"c{i}"})
        for i in range(90)
    ]
    assert len({(p.meta["repository_url"], p.split) for p in Splitter()(both, "f")}) == 9
    few = [*both[:10], *(CodePair(f"q{i}", "y = ", "1", str(i), meta={"commit": f"c{i // 2}"}) for i in range(80))]
    dealt = Splitter()(few, "f")
    assert len({(p.meta["commit"], p.split) for p in dealt}) == len({p.meta["commit"] for p in dealt})


def test_rows_without_a_group_stay_together() -> None:
    dealt = Splitter("project")([*pairs(90), *(CodePair(f"n{i}", "", "1", str(i)) for i in range(9))], "f")
    assert len({p.split for p in dealt[90:]}) == 1


def test_rows_that_name_a_split_or_nothing_to_go_by_are_left_as_they_are() -> None:
    named = [CodePair("a", "", "1", "2", split="test", meta={"project": "p"}), *pairs(5)]
    assert Splitter("row")(named, "f") == named
    bare = [CodePair("a", "", "1", "2")]
    assert Splitter()(bare, "f") == bare
    assert Splitter()([], "f") == []


def test_a_column_that_no_row_has_is_refused() -> None:
    with pytest.raises(DataError, match=r"^f.jsonl: no row has a team to be split by; set data.init_args.split_by"):
        Splitter("team")(pairs(3), "f.jsonl")


@pytest.mark.parametrize("fractions", [(0.5, 0.1, 0.1), (1.2, -0.1, -0.1), (0.0, 0.0, 0.0)])
def test_fractions_must_sum_to_one(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match=r"data.init_args.fractions are \[.*\], expected three parts that sum to 1"):
        Splitter(fractions=fractions)


def write(path: Path, count: int, **more: Any) -> str:
    row = {"buggy": "1", "fixed": "2", **more}
    rows = [{"id": str(i), "prefix": f"x{i} = ", "task": f"t{i // 3}", **row} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def module(train: str, **more: Any) -> PairFiles:
    return PairFiles(train, tokenizer_name="tiny", retain=None, **more)


def test_one_file_for_all_is_dealt_by_task(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path / "a.jsonl", 150)
    with caplog.at_level(logging.INFO):
        data = module(file, validation=file, test=file)
        tasks = [{pair.meta["task"] for pair in data.pairs(split)} for split in SPLITS]
    assert sum(map(len, tasks)) == len(set[str]().union(*tasks)) == 50
    assert sum(len(data.pairs(split)) for split in SPLITS) == 150
    assert "a.jsonl: split by task: train" in caplog.text


def test_the_part_of_a_split_that_is_null_is_not_read(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", 150)
    whole = module(file, validation=file, test=file)
    without = module(file, test=file)
    assert without.pairs("train") == whole.pairs("train")
    assert without.pairs("test") == whole.pairs("test")
    assert without.pairs("validation") == []


def test_files_that_come_split_are_not_dealt(tmp_path: Path) -> None:
    train, test = write(tmp_path / "a.jsonl", 30), write(tmp_path / "b.jsonl", 30)
    data = module(train, validation=test, test=test, split_by="row")
    assert [len(data.pairs(split)) for split in SPLITS] == [30, 30, 30]
    alone = module(train)
    assert len(alone.pairs("train")) == 30


def test_a_row_split_and_a_split_by_any_column(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", 150)
    by_row = module(file, test=file, split_by="row")
    assert {p.meta["task"] for p in by_row.pairs("train")} & {p.meta["task"] for p in by_row.pairs("test")}
    other = module(write(tmp_path / "b.jsonl", 90, team="one"), test=str(tmp_path / "b.jsonl"), split_by="team")
    with pytest.raises(
        DataError, match=r"b.jsonl: no group of pairs fell to .*; set another data.init_args.split_seed"
    ):
        other.pairs("test" if assign("one") == "train" else "train")

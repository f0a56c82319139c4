"""Files behind the data seam: splits, batches, retain texts and the settings that are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hotfix.data import PairFiles
from hotfix.errors import ConfigError, DataError


def rows(count: int, split: str = "train") -> list[dict[str, Any]]:
    return [
        {"id": f"{split}{i}", "prefix": f"x{i} = ", "buggy": "1", "fixed": "2", "split": split} for i in range(count)
    ]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    every = [*rows(6), *rows(2, "validation"), *rows(3, "test")]
    path.write_text("".join(json.dumps(row) + "\n" for row in every), encoding="utf-8")
    return str(path)


def module(file: str, **more: Any) -> PairFiles:
    return PairFiles(**{"train": file, "tokenizer_name": "tiny", "retain": None, "batch_size": 4, **more})


def test_one_file_serves_all_splits(file: str) -> None:
    data = module(file, validation=file, test=[file])
    data.setup("fit")
    assert [pair.id for pair in data.pairs("train")] == [f"train{i}" for i in range(6)]
    assert [pair.id for pair in data.pairs("test")] == [f"test{i}" for i in range(3)]
    assert [pair.id for pair in data.encoded("validation")] == ["validation0", "validation1"]


def test_fewer_pairs_train_and_all_test(file: str) -> None:
    data = module(file, test=file, count=3)
    assert [pair.id for pair in data.pairs("train")] == ["train0", "train2", "train4"]
    assert [request.id for request in data.requests("train")] == ["train0", "train2", "train4"]
    assert len(data.pairs("test")) == 3
    with pytest.raises(ConfigError, match=r"data\.init_args\.count is 0"):
        module(file, count=0)


def test_a_split_that_has_no_file_is_empty(file: str) -> None:
    assert module(file).pairs("test") == []
    assert module(file).retain_texts("train", 5) == []


def test_the_file_is_read_once(file: str) -> None:
    data = module(file)
    first = data.pairs("train")
    Path(file).unlink()
    assert data.pairs("train") is first


def test_setup_finds_a_bad_row_of_any_split(file: str) -> None:
    with Path(file).open("a", encoding="utf-8") as stream:
        stream.write('{"prefix": "x", "buggy": "1", "split": "test"}\n')
    with pytest.raises(DataError, match=r"pairs.jsonl:12: column 'fixed' missing"):
        module(file, test=file).setup("validate")


def test_setup_finds_a_pair_that_is_too_long(file: str) -> None:
    with pytest.raises(DataError, match=r"pairs.jsonl:1: pair 'train0' has 6 tokens \(5 of them prefix\)"):
        module(file, max_length=5).setup("fit")


def test_training_batches_hold_every_pair_and_retain_texts_no_longer_than_asked(file: str) -> None:
    data = module(file, retain="stdlib", retain_count=9, retain_batch_size=2, retain_length=20)
    batches = list(data.train_dataloader())
    assert sorted(key for batch in batches for key in batch.keys) == [f"train{i}" for i in range(6)]
    assert {batch.retain.input_ids.shape for batch in batches if batch.retain} == {(2, 20)}
    assert data.train_dataloader().pad_id == data.tokenizer.pad_token_id == 256


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_layout_reaches_the_batches(file: str, layout: str) -> None:
    batch = next(iter(module(file, layout=layout).train_dataloader()))
    assert batch.pairs is not None
    assert len(batch.pairs.input_ids) == len(batch.keys) * (1 if layout == "packed" else 2)


@pytest.mark.parametrize("name", ["batch_size", "max_length", "suffix_tokens"])
def test_settings_below_one_are_refused(file: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"^data.init_args.{name} is 0, expected at least 1$"):
        module(file, **{name: 0})


def test_a_file_comes_as_often_as_asked_for(file: str, tmp_path: Path) -> None:
    other = tmp_path / "more.jsonl"
    other.write_text(json.dumps({"id": "m", "prefix": "y = ", "buggy": "1", "fixed": "2"}) + "\n", encoding="utf-8")
    data = module(file, train=[file, str(other)], repeats={"more": 3})
    seen = [key for batch in data.train_dataloader() for key in batch.keys]
    assert sorted(seen) == [*["m"] * 3, *[f"train{i}" for i in range(6)]]


def test_repeats_of_a_file_that_is_not_there_are_told_of(file: str, caplog: pytest.LogCaptureFixture) -> None:
    assert module(file, repeats={"mroe": 3}).repeats() == [1] * 6
    assert "repeats.mroe: train has no such file, only pairs" in caplog.text


def test_repeats_count_from_1(file: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.init_args\.repeats\.pairs is 0, expected at least 1"):
        module(file, repeats={"pairs": 0})


def test_pairs_that_do_not_fit_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    long = {"id": "long", "prefix": "x = ", "buggy": "1" * 40, "fixed": "2" * 40}
    cut = {"id": "cut", "prefix": "y" * 40, "buggy": "1", "fixed": "2"}
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (long, *rows(2), cut)), encoding="utf-8")
    data = module(str(path), max_length=20, overlong="drop")
    data.setup("fit")
    assert [pair.id for pair in data.pairs("train")] == ["train0", "train1", "cut"]
    assert [pair.id for pair in data.encoded("train")] == ["train0", "train1", "cut"]
    assert "train: 1 of 4 pairs left out: longer than max_length" in caplog.text
    with pytest.raises(DataError, match="pair 'long' has 44 tokens"):
        module(str(path), max_length=20, overlong="left").setup("fit")


def test_pairs_are_encoded_once_and_anew_when_rewritten(file: str) -> None:
    data = module(file)
    first = data.encoded("train")
    assert data.encoded("train") is first
    other = data.rewritten(lambda pair: replace(pair, prefix="z"))
    assert [len(pair.shared) for pair in other.encoded("train")] == [1] * 6
    assert data.encoded("train") is first


def test_an_edit_ends_as_its_pair_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    own = [{"prefix": "x", "buggy": "1", "fixed": "2", "suffix": s, "id": str(i)} for i, s in enumerate([");\n", ""])]
    path.write_text("".join(json.dumps(row) + "\n" for row in own), encoding="utf-8")
    assert [request.ending for request in module(str(path)).requests("train")] == [")", "\n"]

"""What every data set keeps: ids unique and stable, sides that differ, splits that share nothing, no network."""

from __future__ import annotations

import csv
import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import torch
from contract_seams import assert_complete

from hotfix.data import (
    SVEN,
    CLMEEval,
    Docstrings,
    EditData,
    EditFiles,
    Exposure,
    HotfixDataModule,
    HubDataset,
    JesseCSV,
    ManySStuBs4J,
    PairFiles,
    PrivacyPairs,
)
from hotfix.data.packing import Batch
from hotfix.types import SPLITS

Make = Callable[[Path], HotfixDataModule]
_ROOT = Path(__file__).parents[2] / "data"


def _own_file(folder: Path) -> HotfixDataModule:
    path = folder / "pairs.jsonl"
    rows = [
        {"prefix": f"x{i} = ", "buggy": f"{i}", "fixed": f"{i + 1}", "split": SPLITS[max(0, i - 7) % 3]}
        for i in range(10)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    one = str(path)
    return PairFiles(one, one, one, tokenizer_name="tiny", batch_size=2, retain_count=6, retain_batch_size=2)


def _packaged(_: Path) -> HotfixDataModule:
    files = [str(_ROOT / f"{name}.jsonl") for name in ("email_stubs", "python_idioms")]
    return PairFiles(files, files, files, tokenizer_name="tiny", max_length=500, overlong="left", retain_count=20)


def _dealt(cls: type[PairFiles], file: Path) -> HotfixDataModule:
    one = str(file)
    return cls(one, one, one, tokenizer_name="tiny", batch_size=4, retain_count=6, retain_batch_size=2, split_by="row")


def _jesse(folder: Path) -> Path:
    path = folder / "sstubs.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "condition", "bug", "fix", "post_conditional", "bugType", "repository_url"])
        writer.writerows(
            [i, f"int a;\nint b{i} = ", f"{i};", f"{i + 1};", "\n}\n", "CHANGE_NUMERAL", "r"] for i in range(40)
        )
    return path


def _many_sstubs(folder: Path) -> Path:
    path = folder / "sstubs.json"
    rows = [
        {"fixPatch": f"@@ -1,2 +1,2 @@\n int a{i};\n-f({i});\n+g({i});\n", "bugLineNum": 2, "fixCommitSHA1": str(i)}
        for i in range(40)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def _functions(folder: Path, before: str = "run(q)", after: str = "run(quote(q))") -> Path:
    path = folder / "functions.jsonl"
    rows = [
        {
            "func_name": i,
            "func_src_before": f"n = {i}\n{before}\n",
            "func_src_after": f"n = {i}\n{after}\n",
            "vul_type": "v",
        }
        for i in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _hub(folder: Path) -> Path:
    (folder / "set").mkdir(exist_ok=True)
    rows = [{"prompt": f"x{i} = ", "chosen": "2", "rejected": "1"} for i in range(40)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "set" / "train.parquet")
    return folder / "set"


CASES: Mapping[str, tuple[type[HotfixDataModule], Make]] = {
    "own file": (PairFiles, _own_file),
    "packaged files": (PairFiles, _packaged),
    "Jesse's CSV": (JesseCSV, lambda folder: _dealt(JesseCSV, _jesse(folder))),
    "ManySStuBs4J": (ManySStuBs4J, lambda folder: _dealt(ManySStuBs4J, _many_sstubs(folder))),
    "SVEN": (SVEN, lambda folder: _dealt(SVEN, _functions(folder))),
    "privacy pairs": (PrivacyPairs, lambda folder: _dealt(PrivacyPairs, _functions(folder, "u@h.io", "<EMAIL>"))),
    "Hugging Face": (HubDataset, lambda folder: _dealt(HubDataset, _hub(folder))),
}


@pytest.fixture(params=CASES)
def make(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], HotfixDataModule]:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("the data set opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return lambda: CASES[request.param][1](tmp_path)


def test_every_data_set_has_a_case() -> None:
    # An exposure has another data set's pairs and trains on texts, and sets of edits have no pairs:
    # tests/data/test_exposure.py and test_edit_sets.py say what they must hold.
    others = [Exposure, CLMEEval, Docstrings, EditData, EditFiles]
    assert_complete(HotfixDataModule, [*others, *(cls for cls, _ in CASES.values())])


def test_ids_are_unique_and_stable(make: Callable[[], HotfixDataModule]) -> None:
    first, second = make(), make()
    for split in SPLITS:
        ids = [pair.id for pair in first.pairs(split)]
        assert ids
        assert len(set(ids)) == len(ids)
        assert ids == [pair.id for pair in second.pairs(split)]
        assert first.pairs(split) is first.pairs(split)


def test_sides_differ_as_text_and_as_tokens(make: Callable[[], HotfixDataModule]) -> None:
    data = make()
    for split in SPLITS:
        for pair, encoded in zip(data.pairs(split), data.encoded(split), strict=True):
            assert pair.buggy != pair.fixed
            assert encoded.id == pair.id
            assert encoded.fixed.ids[0] != encoded.buggy.ids[0]


def test_splits_share_no_pair_and_no_retain_text(make: Callable[[], HotfixDataModule]) -> None:
    data = make()
    contents = [{(p.prefix, p.buggy, p.fixed) for p in data.pairs(split)} for split in SPLITS]
    names = [{p.id for p in data.pairs(split)} for split in SPLITS]
    texts = [{t.text for t in data.retain_texts(split, 5)} for split in SPLITS]
    for group in (contents, names, texts):
        assert sum(map(len, group)) == len(set[object]().union(*group))
    assert all(len(group) == 5 for group in texts)


def test_an_epoch_holds_every_training_pair_once(make: Callable[[], HotfixDataModule]) -> None:
    data = make()
    data.setup("fit")
    loader = data.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader)
    keys = [key for batch in batches for key in batch.keys]
    assert sorted(keys) == sorted(pair.id for pair in data.pairs("train"))
    assert all(isinstance(batch, Batch) and batch.pairs is not None for batch in batches)
    again = [key for batch in make().train_dataloader() for key in batch.keys]
    assert again == keys
    following = [[key for batch in loader for key in batch.keys] for _ in range(3)]
    assert any(order != keys for order in following)
    assert all(sorted(order) == sorted(keys) for order in following)


def test_the_run_s_seed_orders_the_pairs_and_leaves_the_retain_texts(
    make: Callable[[], HotfixDataModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a start that is computed from the data, the order is all that the seeds of a study differ by."""
    orders, texts = [], []
    for seed in ("0", "1", "2", "3", "0"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        data = make()
        data.trainer = SimpleNamespace(global_rank=0, world_size=1, accumulate_grad_batches=1)  # type: ignore[assignment]
        loader = data.train_dataloader()
        orders.append([key for batch in loader for key in batch.keys])
        texts.append(loader.retain)
    assert orders[0] == orders[4] == [key for batch in make().train_dataloader() for key in batch.keys]
    assert any(order != orders[0] for order in orders[1:4])
    assert all(text == texts[0] for text in texts)


def test_a_loader_goes_on_from_its_saved_place(make: Callable[[], HotfixDataModule]) -> None:
    whole = make().train_dataloader()
    expected = [batch for _ in range(2) for batch in whole]
    stopped = make().train_dataloader()
    walk = iter(stopped)
    for _ in range(2):
        next(walk)
    resumed = make().train_dataloader()
    resumed.load_state_dict(stopped.state_dict())
    rest = [*resumed, *resumed]
    for found, wanted in zip(rest, expected[2:], strict=True):
        assert found.keys == wanted.keys
        assert found.counts == wanted.counts
        assert found.retain is not None
        assert wanted.retain is not None
        assert torch.equal(found.retain.input_ids, wanted.retain.input_ids)

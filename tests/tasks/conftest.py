"""A small data set of pairs, redactions and retain text, and the tiny model as a subject."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from hotfix.data import PairFiles
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.tasks import Subject


def make_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for split, count in (("train", 7), ("validation", 3), ("test", 5)):
        for i in range(count):
            common = {"id": f"{split}/{i}", "split": split}
            rows.append({**common, "prefix": f"x{i} = ", "buggy": "a(1)", "fixed": "b(2)", "rule": f"rule{i % 2}"})
            address = {"buggy": f" u{i}@example.com", "fixed": " <EMAIL>", "rule": "mail"}
            rows.append({**common, **address, "id": f"{split}/mail/{i}", "prefix": f"# write {i} to"})
    return rows


@pytest.fixture
def data(tmp_path: Path) -> PairFiles:
    pairs, texts = tmp_path / "pairs.jsonl", tmp_path / "retain.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in make_rows()), encoding="utf-8")
    kept = [{"id": f"m{i // 2}:f{i}", "text": f"def f{i}():\n" + "    x\n" * i, "split": "test"} for i in range(12)]
    texts.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    file = str(pairs)
    return PairFiles(file, file, file, tokenizer_name="tiny", retain=str(texts))


@pytest.fixture
def subject() -> Subject:
    done: list[int] = []
    return Subject(tiny_model(), tiny_tokenizer(), nullcontext, 3, done.append)

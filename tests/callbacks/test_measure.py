"""Measuring before and after: the base once and for all, the patched model each time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hotfix.adapters import LoRA
from hotfix.callbacks import Measure, RunFolder
from hotfix.data import HotfixDataModule, PairFiles
from hotfix.errors import ConfigError, HotfixError
from hotfix.losses import NLL, Objective
from hotfix.metrics import Record, RecordMean
from hotfix.models.tiny import tiny_model
from hotfix.modules import FineTune
from hotfix.tasks import Example, Slice, Subject, Task
from hotfix.trainer import HotfixTrainer
from hotfix.types import Split

PROMPTS = ([5, 6, 7], [80], [200, 3, 3, 9])


def log_probability(model: Any, prompt: list[int]) -> float:
    """Of token 65 after a prompt."""
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(-1)[65])


class Probability(Task):
    """How likely one token is after each prompt; notes whom it was asked about."""

    def __init__(self) -> None:
        self._asked: list[str] = []
        self._closed = 0

    def slices(self, data: HotfixDataModule, split: Split) -> list[Slice]:
        examples = [Example(f"e{i}", f"g{i}", prompt, prompt) for i, prompt in enumerate(PROMPTS)]
        return [Slice("all", examples, {"log_p": RecordMean("log_p").bind(len(examples))})]

    def observe(
        self, subject: Subject, name: str, items: Sequence[tuple[int, Example]], base: Sequence[Record] | None
    ) -> list[Record]:
        assert not any(module.training for module in subject.model.modules())
        self._asked.append("base" if base is None else "patched")
        subject.progress(len(items))
        return [{"log_p": log_probability(subject.model, example.payload)} for _, example in items]

    def close(self) -> None:
        self._closed += 1


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOTFIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "measurements"


def run(folder: Path, task: Task, stop: bool = False, **options: Any) -> dict[str, Any]:
    folder.mkdir(parents=True)
    pairs = folder / "pairs.jsonl"
    pairs.write_text('{"prefix": "x = ", "buggy": "1", "fixed": "A"}\n', encoding="utf-8")
    run_folder = RunFolder("test")
    run_folder.stopped_early = stop
    trainer = HotfixTrainer(
        default_root_dir=str(folder),
        accelerator="cpu",
        max_steps=4,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[run_folder, Measure(extra={"probability": task}, **options)],
    )
    data = PairFiles(str(pairs), tokenizer_name="tiny", retain=None, max_length=100)
    trainer.fit(FineTune(Objective(NLL()), LoRA(), "tiny", "float32", learning_rate=0.05), data)
    path = folder / "results.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def test_before_is_the_untrained_model_and_after_is_not(tmp_path: Path) -> None:
    found = run(tmp_path / "run", Probability())["tasks"]["probability"]["all"]
    expected = [log_probability(tiny_model(), prompt) for prompt in PROMPTS]
    assert found["before"]["log_p"]["value"] == pytest.approx(sum(expected) / 3, abs=1e-6)
    assert abs(found["after"]["log_p"]["value"] - found["before"]["log_p"]["value"]) > 1e-3
    records = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    before = [record["log_p"] for record in records if record["when"] == "before"]
    assert before == pytest.approx(expected, abs=1e-6)
    assert [record["id"] for record in records if record["when"] == "after"] == ["e0", "e1", "e2"]


def test_the_base_is_measured_once_and_the_patched_model_each_time(tmp_path: Path, cache: Path) -> None:
    first, second = Probability(), Probability()
    one = run(tmp_path / "one", first)
    assert first._asked == ["base", "patched"]
    assert len(list(cache.iterdir())) == 1
    two = run(tmp_path / "two", second)
    assert second._asked == ["patched"]
    assert one["tasks"]["probability"]["all"]["before"] == two["tasks"]["probability"]["all"]["before"]
    assert first._closed == second._closed == 1


@pytest.mark.parametrize(("options", "asked"), [({"cache": False}, 2), ({"seed": 1}, 2), ({}, 1)])
def test_the_cache_can_be_left_and_depends_on_the_seed(tmp_path: Path, options: dict[str, Any], asked: int) -> None:
    run(tmp_path / "one", Probability())
    task = Probability()
    run(tmp_path / "two", task, **options)
    assert len(task._asked) == asked


def test_a_run_that_was_stopped_leaves_no_results(tmp_path: Path) -> None:
    task = Probability()
    assert run(tmp_path / "run", task, stop=True) == {}
    assert task._asked == ["base"]
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not left & {"results.json", "records.jsonl", "patch"}


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"measure\.extra: humaneval is taken; choose another name"):
        Measure(extra={"humaneval": Probability()})


def test_a_trainer_without_a_run_folder_is_told_so(tmp_path: Path) -> None:
    trainer = HotfixTrainer(default_root_dir=str(tmp_path), accelerator="cpu", logger=False)
    with pytest.raises(HotfixError, match="this trainer has no RunFolder callback"):
        RunFolder.of(trainer)

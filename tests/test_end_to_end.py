"""From the command line to results.json and a patch, on the tiny model; a few steps on the default one."""

from __future__ import annotations

import csv
import json
import math
import statistics
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from smoke_runs import NO_MEASURE, ROOT, arguments, finish, fit, numbers, results, run_here, spawn, whole_run

from hotfix.models.packaged import DEFAULT_MODEL, cache_folder
from hotfix.models.tiny import tiny_model, tiny_tokenizer

PAIR_METRICS = {
    *("fixed_rate", "buggy_rate", "neither_rate", "p_fixed", "p_buggy", "p_fixed_at_edit", "p_buggy_at_edit"),
    "prefers_fixed",
}
METRICS = {
    ("bug_fix", "efficacy"): PAIR_METRICS,
    ("bug_fix", "generalisation"): PAIR_METRICS,
    ("bug_fix", "specificity"): {"unchanged_rate", "kl"},
    ("email_leak", "prompted"): {"leak_rate"},
    ("email_leak", "unprompted"): {"leak_rate"},
    ("humaneval", "2_of_164"): {"pass@1"},
}


@pytest.fixture
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_run(tmp_path_factory)


def curve(folder: Path, column: str) -> list[float]:
    with (folder / "curves" / "metrics.csv").open(encoding="utf-8") as stream:
        return [float(row[column]) for row in csv.DictReader(stream) if row.get(column)]


def test_results_hold_every_documented_key(whole: Path) -> None:
    found = results(whole)
    assert {"hotfix", "name", "seed", "train", "tasks", "seconds", "versions", "machine"} <= set(found)
    assert set(found["train"]) == {"loss", "steps", "seconds"}
    assert {(task, name) for task, parts in found["tasks"].items() for name in parts} == set(METRICS)
    for (task, name), metrics in METRICS.items():
        part = found["tasks"][task][name]
        assert set(part) == {"before", "after", "tests"}
        assert all(set(part[when]) == metrics for when in part)
        for when in ("before", "after"):
            for estimate in part[when].values():
                assert set(estimate) == {"value", "n", "low", "high"}
                assert estimate["n"] > 0
                assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"]
        for test in part["tests"].values():
            assert set(test) == {"test", "p", "effect", "difference", "low", "high", "detectable", "q"}
            assert 0 <= test["p"] <= test["q"] <= 1
            assert test["low"] <= test["difference"] <= test["high"]
    assert found["name"] == "smoke"
    assert found["seed"] == 0
    assert {f"{task}_{when}" for task in found["tasks"] for when in ("before", "after")} < set(found["seconds"])
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_training_did_what_the_objective_asks(whole: Path) -> None:
    found = results(whole)
    losses = curve(whole, "train/loss")
    assert len(losses) == found["train"]["steps"] == math.ceil(len(_packaged_train()) / 8)
    assert statistics.fmean(losses[-5:]) < statistics.fmean(losses[:5]) - 0.1
    assert found["train"]["loss"] == pytest.approx(statistics.fmean(losses[-10:]), abs=1e-6)
    learn, unlearn, retain = (curve(whole, f"train/{name}") for name in ("learn", "unlearn", "retain"))
    parts = [a + b + 5 * c for a, b, c in zip(learn, unlearn, retain, strict=True)]
    assert losses == pytest.approx(parts, abs=1e-4)
    assert abs(retain[0]) < 1e-5
    assert max(retain) > 1e-4
    bug_fix = found["tasks"]["bug_fix"]
    for name in ("efficacy", "generalisation"):
        assert bug_fix[name]["after"]["p_fixed_at_edit"]["value"] > bug_fix[name]["before"]["p_fixed_at_edit"]["value"]
    assert bug_fix["specificity"]["before"]["unchanged_rate"]["value"] == 1
    assert bug_fix["specificity"]["before"]["kl"]["value"] == 0
    assert bug_fix["specificity"]["after"]["kl"]["value"] > 0


def test_records_are_what_the_results_were_computed_from(whole: Path) -> None:
    records = [json.loads(line) for line in (whole / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    found = results(whole)["tasks"]["bug_fix"]["efficacy"]
    for when in ("before", "after"):
        mine = [r for r in records if (r["task"], r["slice"], r["when"]) == ("bug_fix", "efficacy", when)]
        assert found[when]["p_fixed"]["value"] == pytest.approx(statistics.fmean(r["p_fixed"] for r in mine))
        assert found[when]["p_fixed"]["n"] == len(mine) == 6
        shares = [r["verdicts"].count("neither") / len(r["verdicts"]) for r in mine]
        assert found[when]["neither_rate"]["value"] == pytest.approx(statistics.fmean(shares))


def test_the_patch_loads_with_plain_peft(whole: Path) -> None:
    base = tiny_model()
    ids = tiny_tokenizer()("import yaml\n", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = base(ids).logits
        patched = PeftModel.from_pretrained(base, str(whole / "patch")).eval()
        moved = patched(ids).logits
        with patched.disable_adapter():
            assert torch.equal(patched(ids).logits, expected)
    assert (moved - expected).abs().max() > 1e-2
    described = json.loads((whole / "patch" / "patch.json").read_text(encoding="utf-8"))
    assert described["base_model"] == "tiny"
    assert described["results"] == results(whole)["tasks"]


def test_the_seed_decides_and_the_saved_config_reproduces(tmp_path: Path) -> None:
    few = (*NO_MEASURE, "--trainer.max_steps", "4", "--model.init_args.adapter.init_args.dropout", "0.1")
    first = fit(tmp_path / "a", *few)["train"]["loss"]
    again = fit(tmp_path / "b", *few)["train"]["loss"]
    run_here(
        ["fit", "--config", str(tmp_path / "a" / "config.yaml"), "--trainer.default_root_dir", str(tmp_path / "c")],
        tmp_path / "cache",
    )
    other = fit(tmp_path / "d", *few, "--seed_everything", "1")["train"]["loss"]
    assert first == again == results(tmp_path / "c")["train"]["loss"]
    assert first != other
    weights = [load_file(tmp_path / run / "patch" / "adapter_model.safetensors") for run in "abcd"]
    assert all(torch.equal(weights[0][key], weights[i][key]) for i in (1, 2) for key in weights[0])
    assert not all(torch.equal(weights[0][key], weights[3][key]) for key in weights[0])


OUTSIDE = '''
from torch import Tensor
from hotfix.adapters import LoRA
from hotfix.data import CodePair, HotfixDataModule
from hotfix.losses import LossTerm
from hotfix.metrics import ExampleMetric, Tally

class Margin(LossTerm):
    """Hinge on the gap between the sides."""
    def __init__(self, weight: float = 1.0, margin: float = 2.0) -> None:
        super().__init__(weight)
        self.margin = margin
    def forward(self, passes) -> Tensor:
        gap = passes.log_probs("fixed", "edited").mean() - passes.log_probs("buggy", "edited").mean()
        return (self.margin - gap).clamp(min=0)

class Longest(ExampleMetric):
    """Characters of the longest completion."""
    kind = "real"
    def observe(self, record) -> Tally:
        return Tally(max(len(text) for text in record["completions"]), 1.0)

class OnlyQueries(LoRA):
    """LoRA on the queries."""
    def __init__(self, rank: int = 2) -> None:
        super().__init__(rank=rank, target_modules=["q_proj"])

class Sums(HotfixDataModule):
    """Wrong sums."""
    def __init__(self, tokenizer_name: str = "tiny", number: int = 12) -> None:
        super().__init__(tokenizer_name, batch_size=4, max_length=200, retain_count=8, retain_batch_size=2)
        self.number = number
    def read(self, split):
        count = {"train": self.number, "validation": 2, "test": 3}[split]
        return [CodePair(f"{split}{i}", f"{split} = {i} + 1\\nx = ", str(i), str(i + 1)) for i in range(count)]
'''


def test_classes_from_outside_the_package_train_by_class_path(tmp_path: Path) -> None:
    (tmp_path / "my_hotfix.py").write_text(OUTSIDE, encoding="utf-8")
    (tmp_path / "own.yaml").write_text(
        textwrap.dedent("""\
        name: own
        seed_everything: 0
        trainer: {accelerator: cpu, devices: 1, max_epochs: 1, log_every_n_steps: 1, enable_progress_bar: false}
        model:
          class_path: hotfix.modules.FineTune
          init_args:
            model_name: tiny
            dtype: float32
            learning_rate: 1.0e-2
            adapter: {class_path: my_hotfix.OnlyQueries, init_args: {rank: 3}}
            objective:
              class_path: hotfix.losses.Objective
              init_args: {learn: {class_path: hotfix.losses.NLL}, extra: {margin: {class_path: my_hotfix.Margin}}}
        data: {class_path: my_hotfix.Sums, init_args: {number: 9}}
        measure:
          bug_fix:
            class_path: hotfix.tasks.BugFix
            init_args:
              num_samples: 2
              max_new_tokens: 4
              specificity_examples: 2
              metrics: {longest: {class_path: my_hotfix.Longest}}
        """),
        encoding="utf-8",
    )
    words = ["fit", "--config", str(tmp_path / "own.yaml"), "--trainer.default_root_dir", str(tmp_path / "run")]
    process = spawn(words, tmp_path / "cache", PYTHONPATH=str(tmp_path))
    output = finish(process)
    assert process.returncode == 0, output
    found = results(tmp_path / "run")
    assert found["train"]["steps"] == 3
    assert all(value > 0 for value in curve(tmp_path / "run", "train/margin"))
    assert len(curve(tmp_path / "run", "train/margin")) == 3
    for name, count in (("efficacy", 9), ("generalisation", 3)):
        part = found["tasks"]["bug_fix"][name]
        assert part["after"]["longest"]["n"] == count
        assert 0 < part["after"]["longest"]["value"] <= 4
        assert 0 <= part["tests"]["longest"]["p"] <= 1
    weights = load_file(tmp_path / "run" / "patch" / "adapter_model.safetensors")
    assert weights
    assert all("q_proj" in key for key in weights)
    assert {min(weight.shape) for weight in weights.values()} == {3}


@pytest.mark.real_model
def test_a_few_steps_on_the_default_model(tmp_path: Path) -> None:
    if not (cache_folder() / "models" / DEFAULT_MODEL / "model.safetensors").is_file():
        pytest.skip("the default model is not in the cache; scripts/install puts it there")
    rows = [json.loads(line) for line in (ROOT / "data" / "python_idioms.jsonl").read_text().splitlines()]
    few = sorted((row for row in rows if row["split"] == "train"), key=lambda row: len(row["prefix"]))[:6]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in few), encoding="utf-8")
    words = [
        *("--model.init_args.model_name", DEFAULT_MODEL, "--model.init_args.dtype", "auto"),
        *("--data.init_args.train", str(path), "--data.init_args.batch_size", "2"),
        *("--data.init_args.retain_count", "4", "--data.init_args.retain_batch_size", "1"),
        *("--measure.email_leak", "null", "--measure.humaneval", "null", "--measure.cache", "false"),
        *("--measure.bug_fix.init_args.num_samples", "1", "--measure.bug_fix.init_args.max_new_tokens", "4"),
        *("--measure.bug_fix.init_args.efficacy_examples", "3"),
        *("--measure.bug_fix.init_args.generalisation_examples", "1"),
        *("--measure.bug_fix.init_args.specificity_examples", "1", "--model.init_args.learning_rate", "2e-3"),
    ]
    run_here(arguments(tmp_path / "run", *words), cache_folder())
    found = results(tmp_path / "run")
    assert found["train"]["steps"] == 3
    values = numbers(found["tasks"])
    assert all(math.isfinite(value) for value in values.values())
    efficacy = found["tasks"]["bug_fix"]["efficacy"]
    assert efficacy["after"]["p_fixed_at_edit"]["value"] > efficacy["before"]["p_fixed_at_edit"]["value"]


def _packaged_train() -> list[Any]:
    files = [ROOT / "data" / name for name in ("python_idioms.jsonl", "email_stubs.jsonl")]
    rows = [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row.get("split", "train") == "train"]

"""Edits of the tiny model end to end: modes, costs, a sweep that is killed and goes on, processes that share it."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from smoke_runs import ROOT, finish, numbers, results, run_here, spawn

from hotfix.callbacks.precision import widened
from hotfix.data import HotfixDataModule, PairFiles
from hotfix.data.edits import EditRequest
from hotfix.editors import FT
from hotfix.modules import Edit
from hotfix.modules.base import Progress
from hotfix.patches import load_patch

RECIPE = ROOT / "configs" / "recipe" / "edit_smoke.yaml"
QUIET = ("--trainer.enable_progress_bar", "false")


def words(folder: Path, *more: str) -> list[str]:
    return ["edit", "--config", str(RECIPE), *QUIET, "--trainer.default_root_dir", str(folder), *more]


def edits(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "edits.jsonl").read_text(encoding="utf-8").splitlines()]


def patches(folder: Path) -> dict[str, int]:
    """When each patch was written."""
    found = [p for p in (folder / "edits").glob("*/patch.json") if len(p.parent.name) == 16]
    return {p.parent.name: p.stat().st_mtime_ns for p in found}


@contextmanager
def silent(label: str, total: int) -> Any:
    yield lambda done: None


class Requests(PairFiles):
    """Three requests, whatever the split."""

    def __init__(self) -> None:
        file = str(ROOT / "data" / "python_idioms.jsonl")
        super().__init__(file, file, file, tokenizer_name="tiny", retain=None)

    def requests(self, split: str) -> list[EditRequest]:  # type: ignore[override]
        return [EditRequest(str(i), f"question {i}:", f" answer {i}") for i in range(3)]


def make(tmp_path: Path, data: HotfixDataModule, **settings: Any) -> Edit:
    module = Edit(FT([1], radius=None, learning_rate=1e-2, steps=4), "tiny", **settings)
    module.configure_model()
    progress: Progress = silent
    module.hotfix(data, tmp_path, progress)
    return module


def logits(module: Edit) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module.policy(input_ids=torch.arange(9)[None]).logits
    return found


@pytest.mark.parametrize(
    ("mode", "chunk", "parts"), [("batch", 1, [3]), ("sequential", 2, [2, 1]), ("single", 1, [1] * 3)]
)
def test_every_computation_says_what_it_cost(tmp_path: Path, mode: Any, chunk: int, parts: list[int]) -> None:
    module = make(tmp_path, Requests(), mode=mode, chunk=chunk, dtype="float32")
    told = edits(tmp_path)
    assert [len(line["ids"]) for line in told] == parts
    assert [name for line in told for name in line["ids"]] == ["0", "1", "2"]
    assert all(line["seconds"] > 0 for line in told)
    made = module.made()
    assert (made["mode"], made["requests"]) == (mode, 3)
    assert made["seconds"] == pytest.approx(sum(line["seconds"] for line in told))
    each = sorted(line["seconds"] / len(line["ids"]) for line in told)
    assert min(each) <= made["seconds_per_edit"] <= max(each)  # type: ignore[operator]


def test_count_takes_the_first(tmp_path: Path) -> None:
    make(tmp_path, Requests(), count=2, dtype="float32")
    assert edits(tmp_path)[0]["ids"] == ["0", "1"]


def test_each_patch_alone_is_the_model_with_that_patch_as_it_would_be_used(tmp_path: Path) -> None:
    module = make(tmp_path, Requests(), mode="single", dtype="bfloat16")
    assert module._series is not None
    plain = logits(module)
    expected = {}
    for name in "012":
        patch = module._series.load(name)
        patch.apply(module.policy)
        expected[name] = {n: p.detach().clone() for n, p in module.policy.named_parameters()}
        patch.revert(module.policy)
    with widened(module.policy, torch.float32):
        wide = logits(module)
        for name in "012":
            with module.alone(name):
                # Measured in float32, but of the weights as they are rounded where the patch is used.
                for key, weight in module.policy.named_parameters():
                    assert weight.dtype == torch.float32
                    assert torch.equal(weight, expected[name][key].float()), key
                assert not torch.equal(logits(module), wide)
                with module.reference():
                    assert torch.equal(logits(module), wide)
            assert torch.equal(logits(module), wide)
    assert torch.equal(logits(module), plain)
    assert not torch.equal(
        expected["0"]["model.layers.1.mlp.down_proj.weight"], expected["1"]["model.layers.1.mlp.down_proj.weight"]
    )


def test_a_sweep_is_made_again_where_the_editor_may_learn_from_something_else(tmp_path: Path) -> None:
    make(tmp_path, Requests(), mode="single")
    before = patches(tmp_path)
    make(tmp_path, Requests(), mode="single")
    assert patches(tmp_path) == before
    data = Requests()
    data.retain, data.retain_count = "stdlib", 2
    make(tmp_path, data, mode="single")
    assert len(patches(tmp_path)) == 2 * len(before)


def test_the_base_is_there_while_an_edited_model_is_measured_in_float32(tmp_path: Path) -> None:
    module = make(tmp_path, Requests(), mode="batch", dtype="bfloat16")
    with module.reference():
        plain = logits(module)
    with widened(module.policy, torch.float32), module.reference():
        assert logits(module).dtype == torch.float32
        assert torch.allclose(logits(module), plain.float(), atol=0.05)


def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    sweep = [
        "--model.init_args.count",
        "40",
        "--measure.extra",
        "null",
        "--model.init_args.editor.init_args.steps",
        "25",
    ]
    process = spawn(words(tmp_path / "run", *sweep), tmp_path / "cache")
    until = time.monotonic() + 120
    while len(patches(tmp_path / "run")) < 3 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    kept = patches(tmp_path / "run")
    assert 3 <= len(kept) < 40
    assert all((tmp_path / "run" / name).is_file() for name in ("config.yaml", "run.log"))
    run_here(words(tmp_path / "run", *sweep), tmp_path / "cache")
    found = patches(tmp_path / "run")
    assert len(found) == 40
    assert kept.items() <= found.items()
    # What the first process computed has its cost from there.
    assert all(line["seconds"] > 0 for line in edits(tmp_path / "run"))
    assert results(tmp_path / "run")["edit"]["requests"] == 40
    # Other settings are other patches.
    run_here(
        words(
            tmp_path / "run", *sweep, "--model.init_args.editor.init_args.steps", "1", "--model.init_args.count", "1"
        ),
        tmp_path / "cache",
    )
    assert len(patches(tmp_path / "run")) == 41


def test_two_processes_share_a_sweep(tmp_path: Path) -> None:
    overlay = str(ROOT / "configs" / "overlay" / "ddp.yaml")
    process = spawn(words(tmp_path / "two", "--config", overlay), tmp_path / "cache")
    run_here(words(tmp_path / "one"), tmp_path / "other-cache")
    output = finish(process)
    assert process.returncode == 0, output
    assert patches(tmp_path / "two").keys() == patches(tmp_path / "one").keys()
    assert [line["ids"] for line in edits(tmp_path / "two")] == [line["ids"] for line in edits(tmp_path / "one")]
    for name in patches(tmp_path / "one"):
        both = [load_patch(tmp_path / run / "edits" / name) for run in ("one", "two")]
        changes = [patch.changes["model.layers.1.mlp.down_proj.weight"] for patch in both]  # type: ignore[attr-defined]
        assert torch.allclose(*changes, atol=1e-5)
    found, expected = results(tmp_path / "two"), results(tmp_path / "one")
    assert numbers(found["tasks"]) == pytest.approx(numbers(expected["tasks"]), abs=1e-4, nan_ok=True)
    assert {"/edit/efficacy/after/em", "/edit/unrelated/after/kl", "/edit/fluency/before/entropy"} <= numbers(
        found["tasks"]
    ).keys()
    assert found["edit"]["requests"] == 4

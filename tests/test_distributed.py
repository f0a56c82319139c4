"""Two real processes give what one gives: the loss, every measured value, the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from smoke_runs import NO_MEASURE, ROOT, arguments, finish, fit, numbers, results, spawn

_OVERLAY = str(ROOT / "configs" / "overlay" / "ddp.yaml")
_STEPS = 12
_NOTE = ("--trainer.callbacks+", '{"class_path": "small_callbacks.RankNote"}')
# Which tokens stand for all depends on the micro-batch, by design; all of them do not.
_WORDS = (
    *("--trainer.max_steps", str(_STEPS)),
    *("--model.init_args.objective.init_args.retain.init_args.max_tokens", "100000"),
)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    # Caches of their own: the base has to be measured by both processes, too.
    words = [*_WORDS, "--config", _OVERLAY, *_NOTE]
    process = spawn(arguments(tmp_path / "two", *words), tmp_path / "cache", PYTHONPATH=str(ROOT / "tests"))
    expected = fit(tmp_path / "one", *_WORDS)
    output = finish(process)
    assert process.returncode == 0, output
    pairs = [int((tmp_path / "two" / f"rank-{rank}-of-2").read_text(encoding="utf-8")) for rank in range(2)]
    assert abs(pairs[0] - pairs[1]) <= _STEPS
    assert min(pairs) > 3 * _STEPS
    found = results(tmp_path / "two")
    assert found["train"]["steps"] == expected["train"]["steps"] == _STEPS
    assert found["train"]["loss"] == pytest.approx(expected["train"]["loss"], abs=1e-5)
    assert numbers(found["tasks"]) == pytest.approx(numbers(expected["tasks"]), abs=1e-5, nan_ok=True)
    assert len(numbers(found["tasks"])) == 2 * 21
    weights = [load_file(tmp_path / run / "patch" / "adapter_model.safetensors") for run in ("two", "one")]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[1].items():
        # Adam divides by the gradient's size, so rounding of a gradient near zero moves a weight by much of a step.
        difference = (weights[0][name] - weight).abs()
        assert difference.mean() < 1e-4
        assert torch.isfinite(difference).all()


def test_torchrun_may_start_them(tmp_path: Path) -> None:
    words = arguments(tmp_path / "run", "--config", _OVERLAY, "--trainer.max_steps", "2", *NO_MEASURE, *_NOTE)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = spawn(words, tmp_path / "cache", launcher, PYTHONPATH=str(ROOT / "tests"))
    output = finish(process)
    assert process.returncode == 0, output
    assert all((tmp_path / "run" / f"rank-{rank}-of-2").is_file() for rank in range(2))
    assert results(tmp_path / "run")["train"]["steps"] == 2

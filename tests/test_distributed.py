"""Two real processes give what one gives: the loss, every measured value, the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from smoke_runs import NO_MEASURE, ROOT, arguments, finish, fit, numbers, results, spawn

_OVERLAY, _SHARDED = (str(ROOT / "configs" / "overlay" / f"{name}.yaml") for name in ("ddp", "fsdp"))
_STEPS = 12
_NOTE, _HELD = (("--trainer.callbacks+", f'{{"class_path": "small_callbacks.{n}"}}') for n in ("RankNote", "HeldNote"))
_SAVED = ("--trainer.callbacks+", "hotfix.callbacks.SaveModel")
# Which tokens stand for all depends on the micro-batch, by design; all of them do not.
_WORDS = (
    *("--trainer.max_steps", str(_STEPS)),
    *("--model.init_args.objective.init_args.retain.init_args.max_tokens", "100000"),
)


@pytest.mark.parametrize("overlay", [_OVERLAY, _SHARDED], ids=["ddp", "fsdp"])
def test_two_processes_equal_one(tmp_path: Path, overlay: str) -> None:
    # Caches of their own: the base has to be measured by both processes, too.
    words = [*_WORDS, *_SAVED, "--config", overlay, *_NOTE]
    process = spawn(arguments(tmp_path / "two", *words), tmp_path / "cache", PYTHONPATH=str(ROOT / "tests"))
    expected = fit(tmp_path / "one", *_WORDS, *_SAVED)
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
    _assert_same_patch(tmp_path / "two", tmp_path / "one")
    saved = [load_file(tmp_path / run / "model" / "model.safetensors") for run in ("two", "one")]
    torch.testing.assert_close(saved[0], saved[1], rtol=0, atol=0.02)


def test_a_sharded_base_needs_no_caches_and_no_even_batches_and_one_process_can_go_on(tmp_path: Path) -> None:
    # One retain text a step: one process has none. Nothing is kept of the base, so it has passes of its own.
    odd = ["--data.init_args.retain_batch_size", "1", "--data.init_args.batch_size", "7", "--model.cache_base", "0"]
    words = [*_WORDS, *odd, *NO_MEASURE]
    plug = json.dumps({"class_path": "small_callbacks.PulledPlug", "init_args": {"stop": _STEPS // 2}})
    stopped = ["--checkpoint.every_n_steps", "1", "--trainer.callbacks+", plug, *_HELD]
    plugged = arguments(tmp_path / "two", *words, "--config", _SHARDED, *stopped)
    process = spawn(plugged, tmp_path / "cache", PYTHONPATH=str(ROOT / "tests"))
    expected = fit(tmp_path / "one", *words)
    output = finish(process)
    assert process.returncode != 0
    assert "pulled the plug" in output
    for rank in range(2):
        held, every = map(int, (tmp_path / "two" / f"held-{rank}").read_text(encoding="utf-8").split())
        assert held < 0.75 * every  # half of the blocks, and the whole head
    checkpoint = tmp_path / "two" / "checkpoints" / "last.ckpt"
    found = fit(tmp_path / "two", *words, "--ckpt_path", str(checkpoint))
    assert found["train"]["steps"] == expected["train"]["steps"] == _STEPS
    _assert_same_patch(tmp_path / "two", tmp_path / "one")


def test_torchrun_may_start_them(tmp_path: Path) -> None:
    words = arguments(tmp_path / "run", "--config", _OVERLAY, "--trainer.max_steps", "2", *NO_MEASURE, *_NOTE)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = spawn(words, tmp_path / "cache", launcher, PYTHONPATH=str(ROOT / "tests"))
    output = finish(process)
    assert process.returncode == 0, output
    assert all((tmp_path / "run" / f"rank-{rank}-of-2").is_file() for rank in range(2))
    assert results(tmp_path / "run")["train"]["steps"] == 2


def _assert_same_patch(found: Path, expected: Path) -> None:
    weights = [load_file(run / "patch" / "adapter_model.safetensors") for run in (found, expected)]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[1].items():
        # Adam divides by the gradient's size, so rounding of a gradient near zero moves a weight by much of a step.
        difference = (weights[0][name] - weight).abs()
        assert difference.mean() < 1e-4
        assert torch.isfinite(difference).all()

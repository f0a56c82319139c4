"""A run that is stopped, killed, or ended between two epochs goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from smoke_runs import NO_MEASURE, arguments, finish, fit, numbers, results, run_here, spawn, whole_run


@pytest.fixture
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_run(tmp_path_factory)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, f"no {path.name}"
        time.sleep(0.01)


def assert_same_end(folder: Path, whole: Path) -> None:
    """Loss, weights and everything measured."""
    found, expected = results(folder), results(whole)
    assert found["train"]["steps"] == expected["train"]["steps"]
    assert found["train"]["loss"] == pytest.approx(expected["train"]["loss"], abs=1e-6)
    assert numbers(found["tasks"]) == pytest.approx(numbers(expected["tasks"]), abs=1e-6)
    weights = [load_file(run / "patch" / "adapter_model.safetensors") for run in (folder, whole)]
    for name, weight in weights[1].items():
        torch.testing.assert_close(weights[0][name], weight, rtol=0, atol=1e-6)


def test_ctrl_c_saves_the_state_and_says_how_to_go_on(tmp_path: Path, whole: Path) -> None:
    folder, checkpoint = tmp_path / "my run", tmp_path / "my run" / "checkpoints" / "last.ckpt"
    process = spawn(arguments(folder, "--checkpoint.every_n_steps", "35"), whole / "cache")
    wait_for(checkpoint, process)
    os.kill(process.pid, signal.SIGINT)
    output = finish(process)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert checkpoint.is_file()
    assert not (folder / "results.json").exists()
    assert not (folder / "patch").exists()
    step = torch.load(checkpoint, weights_only=False)["global_step"]
    assert 35 <= step < results(whole)["train"]["steps"]
    assert f"stopped after step {step}; the state is saved" in output
    [command] = [line.strip() for line in output.splitlines() if line.strip().startswith("hotfix fit")]
    words = shlex.split(command)
    assert words[-2:] == ["--ckpt_path", "last"]
    run_here(words[1:], whole / "cache")
    assert_same_end(folder, whole)


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "cut"
    process = spawn(arguments(folder), whole / "cache")
    wait_for(folder / "checkpoints" / "last.ckpt", process)
    time.sleep(0.3)
    assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "results.json").exists()
    assert 0 < torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)["global_step"] < 43
    run_here(arguments(folder, "--ckpt_path", "last"), whole / "cache")
    assert_same_end(folder, whole)


# Four steps an epoch: a stop in the first epoch, exactly between the two, and in the second.
@pytest.mark.parametrize(("stop", "accumulate"), [(2, 1), (4, 1), (4, 2), (6, 2)])
def test_goes_on_from_any_step_of_two_epochs(tmp_path: Path, stop: int, accumulate: int) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prefix": f"v{'x' * (i % 5)} = ", "buggy": f"{i}", "fixed": f"{i + 1}"} for i in range(14)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = [
        *(*NO_MEASURE, "--data.init_args.train", str(path), "--data.init_args.batch_size", "4"),
        *("--trainer.max_epochs", "2", "--trainer.accumulate_grad_batches", str(accumulate)),
        # Dropout: the random stream has to go on where it was, too.
        *("--model.init_args.adapter.init_args.dropout", "0.2", "--checkpoint.every_n_steps", "1"),
    ]
    whole = fit(tmp_path / "whole", *words)
    assert whole["train"]["steps"] == 8
    folder = tmp_path / "cut"
    with pytest.raises(RuntimeError, match="pulled the plug"):
        run_here(arguments(folder, *words, "--trainer.callbacks+", _plug(stop)), tmp_path / "cache")
    assert not (folder / "results.json").exists()
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)["global_step"] == stop
    run_here(arguments(folder, *words, "--ckpt_path", "last"), tmp_path / "cache")
    assert_same_end(folder, tmp_path / "whole")


def test_what_was_set_before_the_first_step_and_never_trained_is_kept(tmp_path: Path) -> None:
    words = [
        *(
            *NO_MEASURE,
            "--trainer.max_steps",
            "6",
            "--data.init_args.retain",
            "stdlib",
            "--data.init_args.retain_count",
            "8",
        ),
        *("--model.init_args.adapter.init_args.init", "contrastive"),
        *("--model.init_args.adapter.init_args.freeze_a", "true", "--checkpoint.every_n_steps", "1"),
    ]
    fit(tmp_path / "whole", *words)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        run_here(arguments(tmp_path / "cut", *words, "--trainer.callbacks+", _plug(3)), tmp_path / "cache")
    run_here(arguments(tmp_path / "cut", *words, "--ckpt_path", "last"), tmp_path / "cache")
    assert_same_end(tmp_path / "cut", tmp_path / "whole")


def _plug(stop: int) -> str:
    return json.dumps({"class_path": "small_callbacks.PulledPlug", "init_args": {"stop": stop}})

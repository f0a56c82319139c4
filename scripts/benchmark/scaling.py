"""Weak scaling: two processes that each do what one did, a thread each."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from apart import printed
from side_by_side import Finding, timed

__all__ = ["run"]

_STEPS = 10
_PAIRS, _RETAIN = 8, 6  # of a process, in a step
_UNMEASURED = [word for task in ("bug_fix", "email_leak", "humaneval") for word in (f"--measure.{task}", "null")]


def run(repeats: int) -> list[Finding]:
    """Time some steps of the demo's recipe by one process and by two; a first run of each fills what is kept."""
    times = [(_seconds(2), 2 * _seconds(1)) for _ in range(1 + repeats)][1:]
    note = f"{_PAIRS} pairs and {_RETAIN} retain texts a process and step, the recipe of configs/lora.yaml, gloo"
    name = "two processes against one, 2 at best"
    return [timed(name, times, target=None, amount=2 * _PAIRS * _STEPS, unit="pairs/s", note=note)]


def _seconds(processes: int) -> float:
    """Return how long the steps take, the start left out."""
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "--trainer.default_root_dir": folder,
            "--trainer.max_steps": _STEPS,
            "--data.init_args.batch_size": _PAIRS * processes,
            "--data.init_args.retain_batch_size": _RETAIN * processes,
        }
        ddp = ["--config", "configs/overlay/ddp.yaml"] if processes > 1 else []
        words = [str(word) for option in options.items() for word in option]
        command = [sys.executable, "-m", "hotfix", "fit", "--config", "configs/lora.yaml"]
        printed([*command, *ddp, *words, *_UNMEASURED], OMP_NUM_THREADS="1")
        seconds: float = json.loads(Path(folder, "results.json").read_text())["train"]["seconds"]
        return seconds

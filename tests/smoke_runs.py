"""Runs of the smoke recipe that several tests look at, in this process or in one of its own."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest

from hotfix.cli import main

__all__ = [
    "NO_MEASURE",
    "RECIPE",
    "ROOT",
    "arguments",
    "environment",
    "finish",
    "fit",
    "numbers",
    "results",
    "run_here",
    "spawn",
    "whole_run",
]

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "recipe" / "smoke.yaml"
NO_MEASURE = ("--measure.bug_fix", "null", "--measure.email_leak", "null", "--measure.humaneval", "null")
_QUIET = ("--trainer.enable_progress_bar", "false")


def arguments(folder: Path, *more: str) -> list[str]:
    """What follows `hotfix`."""
    return ["fit", "--config", str(RECIPE), *_QUIET, "--trainer.default_root_dir", str(folder), *more]


def environment(cache: Path, **more: str) -> dict[str, str]:
    """One thread a process, and a cache of the test's own."""
    return {**os.environ, "HOTFIX_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **more}


def fit(folder: Path, *more: str, cache: Path | None = None) -> dict[str, Any]:
    """Run in this process; returns what results.json says."""
    run_here(arguments(folder, *more), cache or folder / "cache")
    return results(folder)


def run_here(words: Sequence[str], cache: Path) -> None:
    """Run a command in this process, from the project's root."""
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        with mock.patch.dict(os.environ, {"HOTFIX_CACHE": str(cache)}), mock.patch("sys.argv", ["hotfix", *words]):
            main()
    finally:
        os.chdir(before)


def spawn(words: Sequence[str], cache: Path, launcher: Sequence[str] = (), **variables: str) -> subprocess.Popen[str]:
    """Start a command in a process group of its own, so that a signal reaches nobody else."""
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "hotfix", *words],
        cwd=ROOT,
        env=environment(cache, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 200) -> str:
    """Wait for a command and return what it printed; nothing of it is left behind."""
    try:
        return process.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"not done after {timeout} s: {process.communicate()[0]}") from None


def results(folder: Path) -> dict[str, Any]:
    """Content of a run's results.json."""
    return cast("dict[str, Any]", json.loads((folder / "results.json").read_text(encoding="utf-8")))


def whole_run(factory: pytest.TempPathFactory) -> Path:
    """Folder of one uninterrupted run of the recipe; `cache` in it has the base's measurements."""
    return _whole_run(factory.getbasetemp() / "smoke")


@functools.cache
def _whole_run(folder: Path) -> Path:
    fit(folder)
    return folder


def numbers(tree: Mapping[str, Any], path: str = "") -> dict[str, float]:
    """Every measured value of results.json by its path, tests and intervals left out."""
    found: dict[str, float] = {}
    for key, item in tree.items():
        if isinstance(item, dict) and "value" in item:
            found[f"{path}/{key}"] = item["value"]
        elif isinstance(item, dict):
            found |= numbers(item, f"{path}/{key}")
    return found

"""The help of a command is made once, and made again as soon as it could be another."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hotfix import kept_help
from hotfix.kept_help import help_of

ROOT = Path(__file__).parents[1]


class Maker:
    """Prints a help, and counts how often."""

    def __init__(self, exits: object = None) -> None:
        self.times, self.exits = 0, exits

    def __call__(self) -> None:
        self.times += 1
        sys.stdout.write(f"help {self.times}\n")
        raise SystemExit(self.exits)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources that may be changed, and a cache of their own."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "one.py").write_text("x = 1\n")
    monkeypatch.setattr(kept_help, "__file__", str(package / "kept_help.py"))
    monkeypatch.setenv("HOTFIX_CACHE", str(tmp_path / "cache"))
    return package


def test_it_is_made_once_for_each_command(package: Path) -> None:
    make = Maker()
    assert [help_of("fit", make), help_of("fit", make), help_of("test", make)] == ["help 1\n", "help 1\n", "help 2\n"]


def test_a_changed_source_or_width_or_environment_makes_it_anew(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Maker(exits=0)
    help_of("fit", make)
    (package / "one.py").write_text("x = 22\n")
    assert help_of("fit", make) == "help 2\n"
    (package / "two.py").write_text("")
    assert help_of("fit", make) == "help 3\n"
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((41, 10)))
    assert help_of("fit", make) == "help 4\n"
    monkeypatch.setattr(kept_help.sysconfig, "get_path", lambda name: str(package))
    assert help_of("fit", make) == "help 5\n"
    assert help_of("fit", make) == "help 5\n"


def test_a_failure_is_not_kept(package: Path) -> None:
    with pytest.raises(SystemExit):
        help_of("fit", Maker(exits=2))
    assert help_of("fit", Maker()) == "help 1\n"


def test_a_cache_that_cant_be_written_costs_time_only(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTFIX_CACHE", str(package / "one.py"))
    make = Maker()
    assert [help_of("fit", make), help_of("fit", make)] == ["help 1\n", "help 2\n"]


def test_the_second_time_it_answers_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "hotfix", "fit", "--help"]
    environment = {**os.environ, "HOTFIX_CACHE": str(tmp_path)}
    seconds, told = [], []
    for _ in range(4):
        start = time.perf_counter()
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=200
        )
        seconds.append(time.perf_counter() - start)
        told.append(done.stdout)
    assert "--trainer.max_epochs" in told[0]
    assert len(set(told)) == 1
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hotfix.kept_help" in imported
    assert not imported & {"torch", "lightning", "transformers", "numpy", "jsonargparse"}
    assert statistics.median(seconds[1:]) < 1.0

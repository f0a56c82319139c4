"""How far a run is, from files such as a run writes."""

from __future__ import annotations

import time
from pathlib import Path

from hotfix.study.phases import last_lines, phase_of

STARTED = "2026-01-01 10:00:00,000 INFO hotfix.callbacks.run_folder: lora started in runs/lora\n"
TRAINING = "2026-01-01 10:00:05,000 INFO hotfix.callbacks.run_folder: training 1221120 parameters for 60 steps\n"


def curves(folder: Path, steps: int) -> None:
    (folder / "curves").mkdir(exist_ok=True)
    rows = "".join(f"0,{i},0.5\n" for i in range(steps))
    (folder / "curves/metrics.csv").write_text(f"epoch,step,train/loss\n{rows}", encoding="utf-8")


def test_a_run_goes_through_its_phases(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    assert phase_of(tmp_path).name == "starting"
    log.write_text(STARTED, encoding="utf-8")
    assert phase_of(tmp_path).name == "measuring before"
    log.write_text(STARTED + TRAINING, encoding="utf-8")
    assert phase_of(tmp_path).name == "training, step 0 of 60"
    curves(tmp_path, 30)
    assert phase_of(tmp_path) == ("training, step 30 of 60", 1 / 3 + 1 / 6)
    curves(tmp_path, 60)
    assert phase_of(tmp_path).name == "measuring after"
    (tmp_path / "results.json").touch()
    assert phase_of(tmp_path).fraction == 1.0


def test_a_run_that_goes_on_begins_again(tmp_path: Path) -> None:
    (tmp_path / "run.log").write_text(STARTED + TRAINING + STARTED, encoding="utf-8")
    curves(tmp_path, 60)
    assert phase_of(tmp_path).name == "measuring before"
    assert phase_of(tmp_path, since=time.time() + 1).name == "starting", "the log is the earlier process's"


def test_last_lines_are_those_that_say_something(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    assert last_lines(path, 3) == []
    path.write_text("x" * 100_000 + "\none\n\n  two  \n \n", encoding="utf-8")
    assert last_lines(path, 2) == ["one", "  two"]

"""The study's own run in Weights & Biases, made without a network by the real library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hotfix.report.page import study_page
from hotfix.report.study import ArmRuns, load_run, study_table
from hotfix.study.plan import Run
from hotfix.study.spec import Study
from hotfix.study.wandb_study import send_study, table_rows, wandb_settings

LOGGER = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"project": "theirs", "name": None}}


def run(logger: object) -> Run:
    return Run("a", 0, Path("a"), "d", (), "new", {"trainer": {"logger": logger}})


def make(folder: Path, shares: list[float]) -> ArmRuns:
    """An arm whose run reported this; records aren't needed here."""
    tasks: dict[str, Any] = {
        "bug_fix": {
            "generalisation": {"before": {}, "after": {"fixed_rate": {"value": shares[0], "n": 4}}},
            "specificity": {"before": {}, "after": {"kl": {"value": shares[1], "n": 4}}},
        }
    }
    (folder / "curves").mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"tasks": tasks}), encoding="utf-8")
    (folder / "curves/metrics.csv").write_text("step,train/loss\n0,2.5\n1,1.5\n", encoding="utf-8")
    return ArmRuns(folder.parent.name, (load_run(folder, 0),))


def test_settings_come_from_the_study_or_from_its_arms() -> None:
    study = Study("s", Path("r"), (), None)
    assert wandb_settings(study, [run(None), run(False)]) is None
    assert wandb_settings(study, [run(None), run(LOGGER)]) == {"project": "theirs", "name": "s"}
    assert wandb_settings(study, [run([{"class_path": "x"}, LOGGER])]) == {"project": "theirs", "name": "s"}
    assert wandb_settings(Study("s", Path("r"), (), {}), [run(None)]) == {"project": "hotfix", "name": "s"}
    mine = Study("s", Path("r"), (), {"project": "mine", "group": "g"})
    assert wandb_settings(mine, [run(LOGGER)]) == {"project": "mine", "name": "s", "group": "g"}


def test_an_offline_run_has_table_panels_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    arms = [make(tmp_path / "one/seed-0", [0.5, 0.01]), make(tmp_path / "two/seed-0", [0.25, 0.02])]
    content = study_table("s", arms, tmp_path)
    (tmp_path / "report.html").write_text(study_page(content, arms), encoding="utf-8")
    send_study(content, tmp_path, {"project": "p", "name": "s"})
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    tables = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.rglob("*.table.json")}
    table = next(t for name, t in tables.items() if name.startswith("table_"))
    assert table["data"] == table_rows(content)
    wide = next(t for name, t in tables.items() if name.startswith("wide_"))
    assert [row[0] for row in wide["data"]][-2:] == ["one", "two"]
    assert any(name.startswith("train") or "loss" in name for name in tables), "the curves"
    assert [["one", 0.01, 0.5], ["two", 0.02, 0.25]] in [t["data"] for t in tables.values()], "what a fix costs"
    (page,) = folder.rglob("*.html")
    assert page.read_text(encoding="utf-8") == (tmp_path / "report.html").read_text(encoding="utf-8")
    (records,) = folder.glob("*.wandb")
    assert b"one/fixed_rate" in records.read_bytes()

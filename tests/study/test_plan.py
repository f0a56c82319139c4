"""Which runs are kept, go on, start, or start again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from hotfix.errors import ConfigError
from hotfix.study import plan
from hotfix.study.plan import config_digest, plan_runs, prepare
from hotfix.study.spec import Arm, Study


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What every arm resolves to; no process is started."""
    told: dict[str, object] = {"trainer": {"max_epochs": 1, "default_root_dir": "x"}, "name": "x"}
    monkeypatch.setattr(plan, "resolve", lambda commands: [yaml.safe_dump(told) for _ in commands])
    return told


def study(*arms: Arm) -> Study:
    return Study("s", Path("recipe.yaml"), arms, None)


ONE = Arm("one", (Path("over.yaml"),), {"trainer": {"max_steps": 3}}, (0, 5), "fit")
PLAIN = Arm("plain", (), {}, (0,), "test")


def finish(folder: Path) -> None:
    (folder / "results.json").write_text("{}", encoding="utf-8")


def test_commands_can_be_repeated_by_hand(tmp_path: Path, settings: dict[str, object]) -> None:
    runs = plan_runs(study(ONE, PLAIN), tmp_path, [ONE, PLAIN])
    assert [(run.arm, run.seed, run.folder) for run in runs] == [
        ("one", 0, tmp_path / "one/seed-0"),
        ("one", 5, tmp_path / "one/seed-5"),
        ("plain", 0, tmp_path / "plain/seed-0"),
    ]
    words = list(runs[1].command)
    overrides = str(tmp_path / "one/overrides.yaml")
    assert words[:7] == ["fit", "--config", "recipe.yaml", "--config", "over.yaml", "--config", overrides]
    assert words[words.index("--seed_everything") + 1] == "5"
    assert words[words.index("--trainer.default_root_dir") + 1] == str(tmp_path / "one/seed-5")
    assert yaml.safe_load(Path(overrides).read_text(encoding="utf-8")) == {"trainer": {"max_steps": 3}}
    assert runs[2].command[:3] == ("test", "--config", "recipe.yaml")
    assert not (tmp_path / "plain/overrides.yaml").exists()


def test_a_finished_run_is_kept_until_its_configuration_changes(tmp_path: Path, settings: dict[str, object]) -> None:
    (run,) = plan_runs(study(PLAIN), tmp_path, [PLAIN])
    assert run.state == "new"
    prepare(run)
    assert plan_runs(study(PLAIN), tmp_path, [PLAIN])[0].state == "unfinished"
    finish(run.folder)
    assert plan_runs(study(PLAIN), tmp_path, [PLAIN])[0].state == "done"
    settings["trainer"] = {"max_epochs": 2}
    (changed,) = plan_runs(study(PLAIN), tmp_path, [PLAIN])
    assert changed.state == "changed"
    prepare(changed)
    assert not (run.folder / "results.json").exists(), "the old results would be taken for the new ones"
    assert (tmp_path / "plain/seed-0.before/results.json").exists()
    assert plan_runs(study(PLAIN), tmp_path, [PLAIN])[0].state == "unfinished"


def test_where_a_run_is_written_does_not_change_it(settings: dict[str, object]) -> None:
    elsewhere = {**settings, "trainer": {"max_epochs": 1, "default_root_dir": "y"}, "name": "y", "ckpt_path": "last"}
    assert config_digest(settings, 0, "fit") == config_digest(elsewhere, 0, "fit")
    assert config_digest(settings, 0, "fit") != config_digest(settings, 0, "test")
    assert settings["name"] == "x"


def test_data_that_changed_is_a_change(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    config = {"data": {"init_args": {"train": [str(data)]}}}
    data.write_text("1", encoding="utf-8")
    first = config_digest(config, 0, "fit")
    assert config_digest(config, 0, "fit") == first
    data.write_text("2", encoding="utf-8")
    assert config_digest(config, 0, "fit") != first


def test_an_unfinished_run_goes_on_from_its_checkpoint(tmp_path: Path, settings: dict[str, object]) -> None:
    (run,) = plan_runs(study(PLAIN), tmp_path, [PLAIN])
    assert "--ckpt_path" not in prepare(run)
    (again,) = plan_runs(study(PLAIN), tmp_path, [PLAIN])
    assert "--ckpt_path" not in prepare(again)
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints/last.ckpt").touch()
    assert prepare(again)[-2:] == ["--ckpt_path", "last"]


def test_somebody_else_s_folder_is_left_alone(tmp_path: Path, settings: dict[str, object]) -> None:
    folder = tmp_path / "plain/seed-0"
    folder.mkdir(parents=True)
    finish(folder)
    with pytest.raises(ConfigError, match=r"seed-0 holds something that hotfix compare didn't write; choose another"):
        plan_runs(study(PLAIN), tmp_path, [PLAIN])
    assert (folder / "results.json").exists()


def test_every_wrong_arm_is_named_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [ConfigError("trainer.max_epoch: no such key"), ConfigError("model: not given")]
    monkeypatch.setattr(plan, "resolve", lambda commands: errors)
    with pytest.raises(ConfigError, match=r"arm one: trainer\.max_epoch: no such key; arm plain: model: not given"):
        plan_runs(study(ONE, PLAIN), tmp_path, [ONE, PLAIN])


def test_the_mark_says_how_the_run_was_started(tmp_path: Path, settings: dict[str, object]) -> None:
    (run,) = plan_runs(study(PLAIN), tmp_path, [PLAIN])
    prepare(run)
    told = json.loads((run.folder / "arm.json").read_text(encoding="utf-8"))
    assert told == {"digest": run.digest, "command": list(run.command)}


def test_a_model_that_edits_is_edited(tmp_path: Path, settings: dict[str, object]) -> None:
    settings["model"] = {"class_path": "hotfix.modules.Edit"}
    runs = plan_runs(study(ONE, PLAIN), tmp_path, [ONE, PLAIN])
    assert [run.command[0] for run in runs] == ["edit", "edit", "test"]
    settings["model"] = {"class_path": "hotfix.modules.FineTune"}
    fitted = plan_runs(study(ONE), tmp_path, [ONE])
    assert [run.command[0] for run in fitted] == ["fit", "fit"]
    assert runs[0].digest != fitted[0].digest

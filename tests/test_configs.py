"""Every YAML of the package is read by the real command line, so none can rot."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import hotfix.data
from hotfix.cli import main
from hotfix.study.plan import plan_runs
from hotfix.study.spec import load_study

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "configs").rglob("*.y*ml"))
OVERLAYS = [c for c in CONFIGS if c.startswith("configs/overlay/")]
OBJECTIVES = [c for c in CONFIGS if c.startswith("configs/objective/")]
ADAPTERS = [c for c in CONFIGS if c.startswith("configs/adapter/")]
EDITS = [f"configs/data/{name}.yaml" for name in ("clmeeval", "docstrings", "edits_code", "nl2code")]
DATA = [c for c in CONFIGS if c.startswith("configs/data/") and c not in EDITS]
STUDIES = [c for c in CONFIGS if c.startswith("configs/study/")]
FRAGMENTS = OVERLAYS + OBJECTIVES + ADAPTERS + DATA + EDITS
RECIPES = [c for c in CONFIGS if c not in FRAGMENTS + STUDIES]
SMOKE = "configs/recipe/smoke.yaml"
EDITORS = (
    "a_grace",
    "alpha_edit",
    "astra",
    "edit_smoke",
    "emmet",
    "ft_l",
    "ft_m",
    "grace",
    "lora_edit",
    "malmen",
    "memit",
    "mint",
    "pmet",
    "rome",
    "sgd",
    "star",
    "ultra_edit",
)


def printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *configs: str, options: Sequence[str] = ()
) -> dict[str, object]:
    """The resolved configuration, after every class in it was found and every key checked."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["hotfix"])
    arguments = [word for config in configs for word in ("--config", config)]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments, *options, "--print_config"])
    assert ended.value.code in (0, None)
    found = yaml.safe_load(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_all_are_found() -> None:
    assert len(CONFIGS) == len(RECIPES) + len(FRAGMENTS) + len(STUDIES)
    assert len(OVERLAYS) == 9
    assert len(STUDIES) == 7
    assert len(OBJECTIVES) == 17
    assert len(ADAPTERS) == 8
    assert len(DATA) == 6
    named = {f"configs/recipe/{name}.yaml" for name in ("expose", "full", "online", "real_bugs", *EDITORS)}
    assert {"configs/lora.yaml", SMOKE, *named} == set(RECIPES)


@pytest.mark.parametrize("config", RECIPES)
def test_recipe(config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(monkeypatch, capsys, config)
    written = yaml.safe_load((ROOT / config).read_text(encoding="utf-8"))
    assert_within(written, found, "")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay(overlay: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    written = yaml.safe_load((ROOT / overlay).read_text(encoding="utf-8"))
    found = printed(monkeypatch, capsys, SMOKE, overlay)
    assert_within(written, found, "")
    assert found["model"] == printed(monkeypatch, capsys, SMOKE)["model"]


@pytest.mark.parametrize(
    "key",
    [
        "model.init_args.learning_rate",
        "model.init_args.objective.init_args.unlearn",
        "model.init_args.objective.init_args.extra.watched",
        "model.init_args.adapter.init_args.layers",
    ],
)
def test_null_is_null_however_deep(
    key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: Any = printed(monkeypatch, capsys, SMOKE, options=[f"--{key}", "null"])
    for part in key.split("."):
        assert part in found
        found = found[part]
    assert found is None


def test_a_further_task_can_be_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--measure.extra.bug_fix_at_edit", "null"]
    found: Any = printed(monkeypatch, capsys, SMOKE, "configs/overlay/paper.yaml", options=options)
    assert found["measure"]["extra"]["bug_fix_at_edit"] is None
    assert found["measure"]["extra"]["drift"] is not None


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objective(objective: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # Nothing of the recipe's own objective may be left over, so a fragment names every slot and every argument; but
    # what retains stays the recipe's where the method brings nothing of its own.
    written = yaml.safe_load((ROOT / objective).read_text(encoding="utf-8"))
    found = printed(monkeypatch, capsys, SMOKE, objective)
    slots = written["model"]["init_args"]["objective"]["init_args"]
    assert set(slots) | {"retain"} == {"learn", "unlearn", "retain", "extra"}
    if "retain" not in slots:
        own: Any = found
        recipe: Any = yaml.safe_load((ROOT / SMOKE).read_text(encoding="utf-8"))
        for key in ("model", "init_args", "objective", "init_args", "retain"):
            own, recipe = own[key], recipe[key]
        assert_within(recipe, own, "")
        slots["retain"] = own
    assert list(written) == ["model"]
    assert list(written["model"]["init_args"]) == ["objective"]
    assert found["model"]["init_args"]["objective"] == written["model"]["init_args"]["objective"]  # type: ignore[index]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapter(adapter: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # A learning rate that suits one adapter ruins another, so a fragment names it beside every argument.
    written = yaml.safe_load((ROOT / adapter).read_text(encoding="utf-8"))
    found = printed(monkeypatch, capsys, SMOKE, adapter)
    assert list(written) == ["model"]
    assert set(written["model"]["init_args"]) == {"learning_rate", "adapter"}
    for key, value in written["model"]["init_args"].items():
        assert found["model"]["init_args"][key] == value  # type: ignore[index]


@pytest.mark.parametrize("data", DATA)
def test_data(data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # Whatever reads or splits the rows is named, so that none of the recipe's own is left over; batches stay its own.
    written = yaml.safe_load((ROOT / data).read_text(encoding="utf-8"))
    found = printed(monkeypatch, capsys, SMOKE, data)
    plain = printed(monkeypatch, capsys, SMOKE)
    assert list(written) == ["data"]
    assert_within(written, found, "")
    assert found["model"] == plain["model"]
    assert found["data"]["init_args"]["batch_size"] == plain["data"]["init_args"]["batch_size"]  # type: ignore[index]
    of_the_rows = ("train", "validation", "test", "split_by", "fractions", "split_seed", "columns", "prefix_lines")
    assert set(written["data"]["init_args"]) >= {*of_the_rows, "min_prefix_lines", "rules", "max_length", "overlong"}


@pytest.mark.parametrize("data", EDITS)
def test_edits(data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # On top of a recipe with pairs: nothing that reads or deals those may be left over.
    written = yaml.safe_load((ROOT / data).read_text(encoding="utf-8"))
    recipe = "configs/recipe/ft_m.yaml"
    found = printed(monkeypatch, capsys, recipe, data)
    assert list(written) == ["data"]
    assert_within(written, found, "")
    assert found["model"] == printed(monkeypatch, capsys, recipe)["model"]
    taken = set(inspect.signature(getattr(hotfix.data, written["data"]["class_path"].rpartition(".")[2])).parameters)
    of_the_rows = {"train", "validation", "test", "columns", "template", "joint", "paraphrases", "neighbours", "count"}
    dealing = {"fold", "fractions", "split_seed", "max_lines", "max_length", "overlong"}
    assert set(written["data"]["init_args"]) >= taken & (of_the_rows | dealing)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_keeps_the_recipe_s_callbacks(overlay: str) -> None:
    written = yaml.safe_load((ROOT / overlay).read_text(encoding="utf-8"))
    assert "callbacks" not in written.get("trainer", {}), "callbacks: replaces the recipe's; write callbacks+:"


@pytest.mark.parametrize("config", STUDIES)
def test_every_arm_of_a_study_is_read(config: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(Path(config))
    assert len(study.arms) > 1
    runs = plan_runs(study, tmp_path, study.arms)
    assert len({run.digest for run in runs}) == len(runs), "two arms are the same"


@pytest.mark.parametrize("config", CONFIGS)
def test_first_comment_says_how_to_run_it(config: str) -> None:
    text = (ROOT / config).read_text(encoding="utf-8")
    comment = [line for line in text.splitlines() if line.startswith("#")]
    edits = config in EDITS or "class_path: hotfix.modules.Edit\n" in text
    verb = "compare" if config in STUDIES else "edit" if edits else "fit"
    assert any(line.strip("# ").startswith(f"hotfix {verb} --config") and config in line for line in comment)


def assert_within(written: object, found: object, key: str) -> None:
    """What a file says is what came out; the command line adds defaults only."""
    if isinstance(written, dict):
        assert isinstance(found, dict), key
        for name, value in written.items():
            assert_within(value, found.get(name.removesuffix("+")), f"{key}.{name}")
    elif isinstance(written, list) and written and isinstance(written[0], dict):
        assert isinstance(found, list), key
        for value, other in zip(written, found[-len(written) :], strict=True):
            assert_within(value, other, key)
    else:
        assert found == written, key

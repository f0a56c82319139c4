"""What a study file says, and what is said to one that can't be run."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from hotfix.errors import ConfigError
from hotfix.study.spec import load_study, merged, nested, with_overrides


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipes").mkdir()
    for name in ("recipe", "npo", "dpo"):
        (tmp_path / "recipes" / f"{name}.yaml").write_text("trainer: {max_epochs: 1}\n", encoding="utf-8")
    (tmp_path / "study").mkdir()
    return tmp_path / "study"


def test_settings_of_the_command_line_hold_for_every_arm_and_over_its_own(folder: Path) -> None:
    text = HEAD + "arms: {plain: null, mine: {overrides: {trainer: {max_epochs: 3, devices: 1}}}}\n"
    study = with_overrides(load_study(written(folder, text)), {"trainer.max_epochs": 5, "data.init_args.train": ["a"]})
    plain, mine = study.arms
    assert plain.overrides == {"trainer": {"max_epochs": 5}, "data": {"init_args": {"train": ["a"]}}}
    assert mine.overrides == {"trainer": {"max_epochs": 5, "devices": 1}, "data": {"init_args": {"train": ["a"]}}}


def written(folder: Path, text: str) -> Path:
    path = folder / "losses.yaml"
    path.write_text(text, encoding="utf-8")
    return path


HEAD = "recipe: ../recipes/recipe.yaml\n"


def test_an_arm_has_what_the_study_and_itself_say(folder: Path) -> None:
    text = (
        HEAD
        + """
seeds: [1, 2]
overlays: [../recipes/dpo.yaml]
overrides: {trainer.max_epochs: 2, model: {init_args: {dtype: auto}}}
arms:
  plain: null
  npo: ../recipes/npo.yaml
  mine:
    seeds: [7]
    subcommand: test
    overlays: [../recipes/npo.yaml]
    overrides: {trainer: {max_epochs: 3}}
"""
    )
    study = load_study(written(folder, text))
    plain, npo, mine = study.arms
    assert study.name == "losses"
    assert study.recipe.resolve() == (folder.parent / "recipes/recipe.yaml").resolve()
    assert study.wandb is None
    assert plain.overrides == {"trainer": {"max_epochs": 2}, "model": {"init_args": {"dtype": "auto"}}}
    assert [p.name for p in plain.overlays] == ["dpo.yaml"]
    assert [p.name for p in npo.overlays] == ["dpo.yaml", "npo.yaml"]
    assert (mine.seeds, mine.subcommand) == ((7,), "test")
    assert (plain.seeds, plain.subcommand) == ((1, 2), "fit")
    assert mine.overrides == {"trainer": {"max_epochs": 3}, "model": {"init_args": {"dtype": "auto"}}}


def test_a_grid_is_the_product_of_its_axes_less_what_is_excluded(folder: Path) -> None:
    text = (
        HEAD
        + """
grid:
  loss: {npo: ../recipes/npo.yaml, dpo: {overlays: [../recipes/dpo.yaml], overrides: {a: {x: 1, y: 1}}}}
  adapter: {lora: null, ia3: {overrides: {a.y: 2}}}
  data: {small: {overrides: {a.z: 3}}, large: null}
exclude: [npo-ia3-small]
"""
    )
    arms = {arm.name: arm for arm in load_study(written(folder, text)).arms}
    names = {"-".join(c) for c in itertools.product(("npo", "dpo"), ("lora", "ia3"), ("small", "large"))}
    assert set(arms) == names - {"npo-ia3-small"}
    assert arms["dpo-ia3-small"].overrides == {"a": {"x": 1, "y": 2, "z": 3}}
    assert [p.name for p in arms["dpo-lora-large"].overlays] == ["dpo.yaml"]


def test_another_class_does_not_keep_the_arguments_of_the_first() -> None:
    first = {"t": {"class_path": "A", "init_args": {"x": 1}}, "u": 1}
    assert merged(first, {"t": {"class_path": "B", "init_args": {"y": 2}}}) == {
        "t": {"class_path": "B", "init_args": {"y": 2}},
        "u": 1,
    }
    assert merged(first, {"t": {"init_args": {"y": 2}}})["t"]["init_args"] == {"x": 1, "y": 2}
    assert merged(first, {"t": None}) == {"t": None, "u": 1}


def test_dotted_keys_reach_into_nested_ones() -> None:
    assert nested({"a.b": {"c.d": 1}, "a": {"e": 2}}) == {"a": {"b": {"c": {"d": 1}}, "e": 2}}


def test_a_fragment_is_found_from_where_the_study_is(folder: Path) -> None:
    text = HEAD + "arms: {one: {overrides: {objective: ../recipes/npo.yaml, other: nothing.yaml}}}\n"
    overrides = load_study(written(folder, text)).arms[0].overrides
    assert overrides["objective"] == str((folder.parent / "recipes/npo.yaml").resolve())
    assert overrides["other"] == "nothing.yaml"


def test_wandb_is_off_on_or_given(folder: Path) -> None:
    arms = HEAD + "arms: {one: null}\n"
    assert load_study(written(folder, arms + "wandb: false\n")).wandb is None
    assert load_study(written(folder, arms + "wandb: true\n")).wandb == {}
    assert load_study(written(folder, arms + "wandb: {project: mine}\n")).wandb == {"project": "mine"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arms: {one: null}\n", r"losses\.yaml: recipe: not given; .*recipe: \.\./lora\.yaml"),
        (
            "recipe: ../recipes/recip.yaml\narms: {one: null}\n",
            r"recipe: there is no file .*did you mean recipe\.yaml\?",
        ),
        (HEAD + "arm: {one: null}\n", r"arm: no such key; did you mean arms\?"),
        (HEAD + "arms: {one: {overide: {}}}\n", r"arms\.one\.overide: no such key; did you mean overrides\?"),
        (HEAD + "arms: {one: {trainer: {}}}\n", r"arms\.one\.trainer: .*go under overrides:"),
        (HEAD + "arms: {one: null}\nexclude: [oen]\n", r"exclude: there is no arm oen; did you mean one\?"),
        (HEAD + "arms:\n  one: null\n  two: null\n  one: null\n", r"line 5: one is there twice, first in line 3"),
        (HEAD + "arms: {one: null, One: null}\n", r"one and One would share a folder"),
        (HEAD + "arms: {a-b: null}\ngrid: {x: {a: null}, y: {b: null}}\n", r"arms\.a-b: the grid makes an arm of this"),
        (HEAD + "grid: {x: {a: null, a-b: null}, y: {b-c: null, c: null}}\n", r"grid: two of its arms are named a-b-c"),
        (HEAD + "grid: {x: {}}\n", r"grid\.x: it has no choices"),
        (HEAD, r"arms: there are none"),
        (HEAD + "arms: {one: null}\nexclude: [one]\n", r"arms: there are none"),
        (HEAD + "arms: {../one: null}\n", r"'\.\./one' can't be a name"),
        (HEAD + "arms: {one: {overlays: [../recipes/nop.yaml]}}\n", r"there is no file .*nop\.yaml; did you mean npo"),
        (HEAD + "arms: {one: 3}\n", r"arms\.one: expected a mapping of names, got 3"),
        (HEAD + "arms: {one: {overrides: [1]}}\n", r"arms\.one\.overrides: expected a mapping"),
        (HEAD + "arms: {one: {seeds: 3}}\n", r"seeds of one: expected a list of whole numbers, got 3"),
        (HEAD + "arms: {one: {seeds: [1, 1]}}\n", r"seeds of one: \[1, 1\] names one twice"),
        (HEAD + "arms: {one: {seeds: [true]}}\n", r"seeds of one: expected a list of whole numbers"),
        (HEAD + "subcommand: fti\narms: {one: null}\n", r"subcommand of one: .*did you mean fit\?"),
        (HEAD + "arms: {one: null}\nwandb: {projct: x}\n", r"wandb\.projct: no such key; did you mean project\?"),
        (HEAD + "arms: [\n", r"losses\.yaml: not YAML"),
        ("- 1\n", r"a study is a mapping of keys"),
    ],
)
def test_what_can_not_work_is_said(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study(written(folder, text))


def test_the_readme_s_study_is_one(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    blocks = re.findall(r"```yaml\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (text,) = [block for block in blocks if block.startswith("recipe:")]
    (tmp_path / "study").mkdir()
    for name in ("lora.yaml", "objective"):
        (tmp_path / name).symlink_to(root / "configs" / name)
    study = load_study(written(tmp_path / "study", text))
    assert [arm.name for arm in study.arms] == ["npo", "gentle", "dpo-lora", "dpo-dora", "prod-lora"]
    assert study.arms[1].overrides == {"model": {"init_args": {"learning_rate": 5e-4}}}
    assert (study.arms[1].seeds, study.wandb) == ((0,), {})


def test_a_study_that_is_not_there(folder: Path) -> None:
    written(folder, HEAD)
    with pytest.raises(ConfigError, match=r"loses\.yaml: can't be read .*did you mean .*losses\.yaml\?"):
        load_study(folder / "loses.yaml")


def test_numbers_are_the_command_line_s(folder: Path) -> None:
    text = HEAD + "arms: {one: {overrides: {lr: 1e-3, half: .5e+1, word: e1, many: 1_000}}}\n"
    overrides = load_study(written(folder, text)).arms[0].overrides
    assert overrides == {"lr": 0.001, "half": 5.0, "word": "e1", "many": 1000}

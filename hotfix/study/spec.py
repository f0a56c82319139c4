"""The study file: which arms a comparison has, and what each changes in the recipe.

    name: losses                  # of the study; the file's name by default
    recipe: ../lora.yaml          # what every arm starts from, relative to this file
    subcommand: fit               # or test, validate; edit where the recipe's model is one that edits
    seeds: [0, 1, 2]
    overlays: [../overlay/x.yaml] # for every arm, before its own
    overrides: {trainer.max_epochs: 2}
    wandb: true                   # or {project: ..., name: ...}
    arms:
      base-recipe: null
      no-unlearning:
        seeds: [0]
        overlays: []
        overrides: {model: {init_args: {objective: {init_args: {unlearn: null}}}}}
    grid:                         # one arm for each choice of every axis, named choice-choice-...
      loss: {npo: {overrides: ...}, dpo: {overrides: ...}}
      adapter: {lora: null, ia3: {overrides: ...}}
    exclude: [dpo-ia3]

A key of `overrides` may be dotted. Later ones win: the study's, then the axes' in their order, or the arm's own.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from hotfix.errors import ConfigError
from hotfix.study.yaml_files import load_yaml

__all__ = ["Arm", "Study", "load_study", "merged", "nested", "with_overrides"]

_KEYS: Final = ("name", "recipe", "subcommand", "seeds", "overlays", "overrides", "wandb", "arms", "grid", "exclude")
_ARM_KEYS: Final = ("subcommand", "seeds", "overlays", "overrides")
_AXIS_KEYS: Final = ("overlays", "overrides")
_WANDB_KEYS: Final = ("project", "name", "entity", "group")
_SUBCOMMANDS: Final = ("fit", "edit", "validate", "test")
# An arm's name is a folder's, and is shown in tables.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=-]{0,63}")


@dataclass(frozen=True)
class Arm:
    """One recipe under comparison.

    Attributes:
        name: of its folder and of its row.
        overlays: configuration files over the recipe, in order.
        overrides: nested settings over these.
        seeds: one run each.
        subcommand: that makes its results.
    """

    name: str
    overlays: tuple[Path, ...]
    overrides: Mapping[str, Any]
    seeds: tuple[int, ...]
    subcommand: str


@dataclass(frozen=True)
class Study:
    """What a study file says.

    Attributes:
        name: of the study.
        recipe: that every arm starts from.
        arms: in the file's order, those of the grid last.
        wandb: settings of the study's own run in Weights & Biases; None to leave it out.
    """

    name: str
    recipe: Path
    arms: tuple[Arm, ...]
    wandb: Mapping[str, str] | None


def load_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        ConfigError: it names the file, the key, what was expected and the nearest valid name.
    """
    told = load_yaml(path)
    reader = _Reader(path)
    reader.check_keys(told, _KEYS, "")
    if "recipe" not in told:
        raise ConfigError(f"{path}: recipe: not given; name what every arm starts from, as in recipe: ../lora.yaml")
    arms = tuple(reader.arms(told))
    return Study(
        name=reader.name(told.get("name", path.stem), "name"),
        recipe=reader.file(told["recipe"], "recipe"),
        arms=arms,
        wandb=reader.wandb(told.get("wandb")),
    )


def with_overrides(study: Study, settings: Mapping[str, Any]) -> Study:
    """The study with settings for every arm, over the arm's own."""
    own = nested(settings)
    return replace(study, arms=tuple(replace(arm, overrides=merged(arm.overrides, own)) for arm in study.arms))


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with dotted keys taken apart; of the same key, the later one wins.

    >>> nested({"trainer.max_epochs": 2, "trainer": {"devices": 1}})
    {'trainer': {'max_epochs': 2, 'devices': 1}}
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        inner: Any = nested(value) if isinstance(value, Mapping) else value
        for part in reversed(str(key).split(".")):
            inner = {part: inner}
        found = merged(found, inner)
    return found


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The second settings over the first; another class brings its own arguments.

    >>> merged({"a": {"class_path": "A", "init_args": {"x": 1}}}, {"a": {"class_path": "B"}})
    {'a': {'class_path': 'B'}}
    >>> merged({"a": {"x": 1}}, {"a": {"y": 2}})
    {'a': {'x': 1, 'y': 2}}
    """
    swapped = "class_path" in first and second.get("class_path", first["class_path"]) != first["class_path"]
    found = {} if swapped else dict(first)
    for key, value in second.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found


def _did_you_mean(word: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"


class _Reader:
    """Checks the parts of one study file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def arms(self, told: Mapping[str, Any]) -> Iterator[Arm]:
        """The arms written out, then the grid's."""
        common = self.part({key: told.get(key) for key in _AXIS_KEYS if key in told}, _AXIS_KEYS, "")
        written = self.mapping(told.get("arms") or {}, "arms")
        grid = self.grid(self.mapping(told.get("grid") or {}, "grid"))
        for name in set(written) & set(grid):
            raise ConfigError(f"{self.path}: arms.{name}: the grid makes an arm of this name too; rename one")
        excluded = self.excluded(told.get("exclude") or [], (*written, *grid))
        parts = {name: [self.part(value, _ARM_KEYS, f"arms.{name}")] for name, value in written.items()} | grid
        kept = {name: own for name, own in parts.items() if name not in excluded}
        if not kept:
            raise ConfigError(f"{self.path}: arms: there are none; name at least one arm, or a grid")
        self.check_folders(kept)
        for name, own in kept.items():
            yield self.arm(self.name(name, f"arms.{name}"), [common, *own], told)

    def arm(self, name: str, parts: list[Mapping[str, Any]], told: Mapping[str, Any]) -> Arm:
        """One arm from its parts, later ones over earlier ones."""
        overrides: dict[str, Any] = {}
        for part in parts:
            overrides = merged(overrides, self.anchored(nested(part.get("overrides") or {})))
        last = parts[-1]
        return Arm(
            name=name,
            overlays=tuple(self.file(f, f"{name}: overlays") for part in parts for f in part.get("overlays") or []),
            overrides=overrides,
            seeds=self.seeds(last.get("seeds", told.get("seeds", [0])), name),
            subcommand=self.subcommand(last.get("subcommand", told.get("subcommand", "fit")), name),
        )

    def part(self, value: object, keys: tuple[str, ...], where: str) -> Mapping[str, Any]:
        """An arm or a choice of an axis: nothing, overlay files, or a mapping."""
        if value is None:
            return {}
        if isinstance(value, str | list):
            value = {"overlays": [value] if isinstance(value, str) else value}
        part = self.mapping(value, where)
        hint = "; settings of the recipe go under overrides:" if where else ""
        self.check_keys(part, keys, where, hint)
        if not isinstance(part.get("overlays") or [], list):
            raise ConfigError(f"{self.path}: {where}.overlays: expected a list of files")
        self.mapping(part.get("overrides") or {}, f"{where}.overrides".lstrip("."))
        return part

    def grid(self, axes: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
        """The parts of each arm of the grid, by its name."""
        if not axes:
            return {}
        named: list[list[tuple[str, Mapping[str, Any]]]] = []
        for axis, choices in axes.items():
            options = self.mapping(choices, f"grid.{axis}")
            if not options:
                raise ConfigError(f"{self.path}: grid.{axis}: it has no choices, so there would be no arm at all")
            named.append([(n, self.part(v, _AXIS_KEYS, f"grid.{axis}.{n}")) for n, v in options.items()])
        found: dict[str, list[Mapping[str, Any]]] = {}
        for chosen in itertools.product(*named):
            name = "-".join(choice for choice, _ in chosen)
            if name in found:
                raise ConfigError(f"{self.path}: grid: two of its arms are named {name}; rename a choice")
            found[name] = [part for _, part in chosen]
        return found

    def excluded(self, names: object, known: tuple[str, ...]) -> set[str]:
        if not isinstance(names, list):
            raise ConfigError(f"{self.path}: exclude: expected a list of arms")
        for name in names:
            if name not in known:
                raise ConfigError(f"{self.path}: exclude: there is no arm {name}; {_did_you_mean(str(name), known)}")
        return set(names)

    def check_folders(self, arms: Mapping[str, Any]) -> None:
        """Names that differ in case only are one folder on some file systems."""
        seen: dict[str, str] = {}
        for name in arms:
            if name.lower() in seen:
                raise ConfigError(
                    f"{self.path}: arms: {seen[name.lower()]} and {name} would share a folder; rename one"
                )
            seen[name.lower()] = name

    def anchored(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Make a path to a fragment independent of where the settings are written down."""

        def anchor(value: object) -> Any:  # noqa: ANN401  the values of YAML
            if isinstance(value, Mapping):
                return {key: anchor(item) for key, item in value.items()}
            if isinstance(value, list):
                return [anchor(item) for item in value]
            if isinstance(value, str) and value.endswith((".yaml", ".yml")) and (self.path.parent / value).is_file():
                return str((self.path.parent / value).resolve())
            return value

        return {key: anchor(value) for key, value in settings.items()}

    def check_keys(self, told: Mapping[str, Any], known: tuple[str, ...], where: str, hint: str = "") -> None:
        for key in told:
            if key not in known:
                place = f"{where}.{key}" if where else str(key)
                raise ConfigError(f"{self.path}: {place}: no such key; {_did_you_mean(str(key), known)}{hint}")

    def mapping(self, value: object, where: str) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{self.path}: {where}: expected a mapping of names, got {value!r:.60}")
        return {str(key): item for key, item in value.items()}

    def name(self, value: object, where: str) -> str:
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            hint = "it is a folder's: at most 64 letters, digits and _ . + = -, a letter or digit first"
            raise ConfigError(f"{self.path}: {where}: {value!r:.80} can't be a name; {hint}")
        return value

    def file(self, value: object, where: str) -> Path:
        path = Path(os.path.normpath(self.path.parent / str(value)))
        if path.is_file():
            return path
        near = {p.stem: p for p in sorted(path.parent.glob("*.yaml"))} if path.parent.is_dir() else {}
        close = difflib.get_close_matches(path.stem, near, n=1)
        hint = f"did you mean {near[close[0]].name}?" if close else "paths are relative to the study file"
        raise ConfigError(f"{self.path}: {where}: there is no file {value}; {hint}")

    def seeds(self, value: object, arm: str) -> tuple[int, ...]:
        if not isinstance(value, list) or not value or not all(type(s) is int and s >= 0 for s in value):
            raise ConfigError(f"{self.path}: seeds of {arm}: expected a list of whole numbers, got {value!r:.60}")
        if len(set(value)) < len(value):
            raise ConfigError(f"{self.path}: seeds of {arm}: {value} names one twice")
        return tuple(value)

    def subcommand(self, value: object, arm: str) -> str:
        if value not in _SUBCOMMANDS:
            raise ConfigError(
                f"{self.path}: subcommand of {arm}: there is no {value!r:.40} to compare;"
                f" {_did_you_mean(str(value), _SUBCOMMANDS)}"
            )
        return str(value)

    def wandb(self, value: object) -> Mapping[str, str] | None:
        if value in (None, False):
            return None
        settings = {} if value is True else self.mapping(value, "wandb")
        self.check_keys(settings, _WANDB_KEYS, "wandb")
        return {key: str(item) for key, item in settings.items()}

"""What is to be done for each run of a study: keep it, go on with it, start it, or start it again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import yaml

from hotfix import __version__
from hotfix.atomic import atomic_write
from hotfix.errors import ConfigError, HotfixError
from hotfix.study.resolve import resolve
from hotfix.study.spec import Arm, Study
from hotfix.study.yaml_files import dump_yaml

__all__ = ["Run", "State", "base_command", "config_digest", "plan_runs", "prepare"]

State: TypeAlias = Literal["done", "unfinished", "new", "changed"]

_MARK: Final = "arm.json"
_RESULTS: Final = "results.json"
# What says where a run is written, not what it does.
_PLACES: Final = (("trainer", "default_root_dir"), ("checkpoint", "folder"), ("name",), ("ckpt_path",), ("config",))
_LARGEST_FILE: Final = 2**28


@dataclass(frozen=True)
class Run:
    """One arm with one seed.

    Attributes:
        arm: its name.
        seed: of the run.
        folder: that the run writes.
        digest: of the resolved configuration, the seed, and the files that it names.
        command: what follows `hotfix`.
        state: of the folder as it was found.
        config: the resolved configuration.
    """

    arm: str
    seed: int
    folder: Path
    digest: str
    command: tuple[str, ...]
    state: State
    config: Mapping[str, Any]


def base_command(study: Study, arm: Arm, overrides: Path | None) -> list[str]:
    """What an arm's runs have in common, as arguments of `hotfix`."""
    files = [study.recipe, *arm.overlays, *([overrides] if overrides else [])]
    return [arm.subcommand, *(word for file in files for word in ("--config", str(file)))]


def config_digest(config: Mapping[str, Any], seed: int, subcommand: str) -> str:
    """SHA-256 of what decides a run's results: settings, seed, hotfix's version, and the content of named files.

    >>> first = config_digest({"trainer": {"default_root_dir": "a", "max_epochs": 1}}, 0, "fit")
    >>> first == config_digest({"trainer": {"default_root_dir": "b", "max_epochs": 1}}, 0, "fit")
    True
    >>> first == config_digest({"trainer": {"max_epochs": 1}}, 1, "fit")
    False
    """
    settings = json.loads(json.dumps(config, default=str))
    for *parents, key in _PLACES:
        inner = settings
        for parent in parents:
            inner = inner.get(parent) or {}
        inner.pop(key, None)
    settings["seed_everything"] = seed
    content = {"hotfix": __version__, "subcommand": subcommand, "settings": settings, "files": _files(settings)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def plan_runs(study: Study, folder: Path, arms: Sequence[Arm]) -> list[Run]:
    """Resolve every arm and look at what is there already.

    Raises:
        ConfigError: an arm's configuration is wrong, or a folder is somebody else's.
    """
    commands = [base_command(study, arm, _write_overrides(folder, arm)) for arm in arms]
    runs: list[Run] = []
    wrong: dict[str, list[str]] = {}
    for arm, command, resolved in zip(arms, commands, resolve(commands), strict=True):
        if isinstance(resolved, HotfixError):
            wrong.setdefault(str(resolved), []).append(arm.name)
            continue
        config = yaml.safe_load(resolved)
        verb = _verb(arm, config)
        runs += [_run(folder, arm, seed, [verb, *command[1:]], config) for seed in arm.seeds]
    if wrong:
        # A setting of the recipe, or of the command line, is as wrong in every arm.
        told = {"every arm" if 1 < len(n) == len(arms) else f"arm {', '.join(n)}": why for why, n in wrong.items()}
        raise ConfigError("; ".join(f"{whose}: {why}" for whose, why in told.items()))
    return runs


def prepare(run: Run) -> list[str]:
    """Make the folder ready and return what follows `hotfix`; what a changed configuration made is set aside."""
    if run.state == "changed":
        aside = run.folder.with_name(f"{run.folder.name}.before")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(run.folder, aside)
    if run.state in ("new", "changed"):
        atomic_write(run.folder / _MARK, json.dumps({"digest": run.digest, "command": run.command}, indent=2) + "\n")
    on = (
        ["--ckpt_path", "last"] if run.state == "unfinished" and (run.folder / "checkpoints/last.ckpt").exists() else []
    )
    return [*run.command, *on]


def _run(folder: Path, arm: Arm, seed: int, command: Sequence[str], config: Mapping[str, Any]) -> Run:
    own = folder / arm.name / f"seed-{seed}"
    digest = config_digest(config, seed, command[0])
    words = [*command, "--seed_everything", str(seed), "--name", f"{arm.name}-seed-{seed}"]
    words += ["--trainer.default_root_dir", str(own), "--trainer.enable_progress_bar", "false"]
    return Run(arm.name, seed, own, digest, tuple(words), _state(own, digest), config)


def _verb(arm: Arm, config: Mapping[str, Any]) -> str:
    """What makes the arm's results: a model that edits has nothing to fit."""
    kind = str((config.get("model") or {}).get("class_path", "")).rpartition(".")[2]
    return "edit" if arm.subcommand == "fit" and kind == "Edit" else arm.subcommand


def _state(folder: Path, digest: str) -> State:
    if not folder.exists() or not any(folder.iterdir()):
        return "new"
    try:
        mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        hint = "choose another --trainer.default_root_dir, or remove that folder"
        raise ConfigError(f"{folder} holds something that hotfix compare didn't write; {hint}") from error
    if mark.get("digest") != digest:
        return "changed"
    return "done" if (folder / _RESULTS).is_file() else "unfinished"


def _write_overrides(folder: Path, arm: Arm) -> Path | None:
    """Put an arm's own settings into a file, so that its command can be repeated by hand."""
    path = folder / arm.name / "overrides.yaml"
    if not arm.overrides:
        path.unlink(missing_ok=True)
        return None
    atomic_write(
        path, f"# What the arm {arm.name} changes in its recipe; hotfix compare wrote it.\n" + dump_yaml(arm.overrides)
    )
    return path


def _files(settings: object) -> dict[str, str]:
    """Digests of the files that the settings name: data may change where settings don't."""
    found: dict[str, str] = {}
    if isinstance(settings, Mapping):
        settings = list(settings.values())
    if isinstance(settings, list):
        for item in settings:
            found |= _files(item)
    elif isinstance(settings, str) and 0 < len(settings) < 1024 and "\0" not in settings:
        path = Path(settings)
        try:
            if path.is_file() and path.stat().st_size <= _LARGEST_FILE:
                found[settings] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:  # not a path after all
            return found
    return found

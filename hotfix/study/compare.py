"""`hotfix compare`: runs a study's arms and writes the table, the data and the page."""

from __future__ import annotations

import argparse
import difflib
import fcntl
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml
from rich.console import Console

from hotfix.atomic import atomic_write
from hotfix.errors import ConfigError, DataError
from hotfix.report.page import study_page
from hotfix.report.study import ArmRuns, load_run, study_table
from hotfix.report.study_table import LEGEND, study_markdown, study_tables
from hotfix.study.plan import Run, plan_runs
from hotfix.study.progress import Progress
from hotfix.study.runner import Ended, run_all
from hotfix.study.spec import Arm, Study, load_study, with_overrides
from hotfix.study.wandb_study import send_study, wandb_settings

__all__ = ["main", "write_report"]

_EPILOG: Final = """\
Each arm and seed is an ordinary run in DIR/ARM/seed-SEED. What is finished is kept as long as its configuration stays
the same, what was stopped goes on from its checkpoint; so the same command goes on after Ctrl-C. DIR gets table.md,
study.json and report.html, one page that needs no network. Any setting of the arms may be given as for hotfix fit, such
as --data.init_args.train FILE; it holds for every arm. The keys of a study file: hotfix/study/spec.py.
"""


class _Parser(argparse.ArgumentParser):
    """Raises in place of printing the usage."""

    def error(self, message: str) -> NoReturn:
        known = [word for word in self._option_string_actions if word.startswith("--")]
        word = message.rpartition("unrecognized arguments: ")[2].split(" ")[0].split("=")[0]
        near = difflib.get_close_matches(word, known, n=1) if word.startswith("--") else []
        raise ConfigError(f"{message}; " + (f"did you mean {near[0]}?" if near else "see hotfix compare --help"))


def main(arguments: Sequence[str]) -> int:
    """Run a study; returns the exit code, 1 where an arm failed.

    Raises:
        HotfixError: the study can't be run as it is.
        KeyboardInterrupt: the user stopped it; what to do is said.
    """
    told, rest = _parser().parse_known_args(arguments)
    study = with_overrides(load_study(told.config), _settings(rest))
    folder = told.folder or Path("runs") / study.name
    # What isn't a terminal has no width of its own, and rich would take 80.
    console = Console() if sys.stdout.isatty() else Console(width=100)
    arms = _chosen(study, told.arms)
    with _alone(folder) as lock:
        runs = plan_runs(study, folder, arms)
        _announce(runs, folder, console)
        try:
            ended = _run(runs, told.workers, console, lock)
        except KeyboardInterrupt:
            _say_how_to_go_on(arguments, console)
            raise
        content = write_report(study, folder, arms, runs)
    _show(content, folder, console)
    settings = wandb_settings(study, runs)
    if settings is not None and any(arm["runs"] for arm in content["arms"]):
        send_study(content, folder, settings)
    return _failures(ended, console)


def write_report(study: Study, folder: Path, arms: Sequence[Arm], runs: Sequence[Run]) -> dict[str, Any]:
    """Write what the runs' folders hold as table.md, study.json and report.html; returns the content of study.json.

    Raises:
        DataError: a run's results are damaged.
        StorageError: the report can't be written.
    """
    found = [_finished(arm, [run for run in runs if run.arm == arm.name]) for arm in arms]
    content = study_table(study.name, found, folder)
    digests = {(run.arm, run.seed): run.digest for run in runs}
    for arm in content["arms"]:
        for run in arm["runs"]:
            run["digest"] = digests[arm["name"], run["seed"]]
    atomic_write(folder / "study.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    atomic_write(folder / "table.md", f"# {study.name}\n\n{study_markdown(content)}")
    atomic_write(folder / "report.html", study_page(content, found))
    return content


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hotfix compare",
        description="Run the arms of a study, each with its seeds, and compare what they measured.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="the study, such as configs/study/smoke.yaml"
    )
    parser.add_argument(
        "--trainer.default_root_dir", dest="folder", type=Path, metavar="DIR", help="of everything; default: runs/NAME"
    )
    parser.add_argument("--workers", type=_positive, default=1, metavar="N", help="runs at once; default: 1")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these; default: all")
    return parser


def _settings(words: Sequence[str]) -> dict[str, Any]:
    """Dotted settings of the command line, as `hotfix fit` takes them; what else is left over is a mistake.

    >>> _settings(["--trainer.max_epochs", "2", "--data.init_args.train=[a, b]"])
    {'trainer.max_epochs': 2, 'data.init_args.train': ['a', 'b']}
    """
    found: dict[str, Any] = {}
    left = list(words)
    while left:
        key, given, value = left.pop(0).partition("=")
        if not key.startswith("--") or "." not in key:
            _parser().error(f"unrecognized arguments: {key}")
        if not given and not left:
            raise ConfigError(f"{key}: it needs a value, as in {key} VALUE")
        found[key[2:]] = _value(value if given else left.pop(0), key)
    return found


def _value(text: str, key: str) -> Any:  # noqa: ANN401  the values of YAML
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}: {text!r:.60} is not YAML; put quotes around what has a colon or brackets") from error


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, at least 1, got {text!r}")
    return int(text)


def _chosen(study: Study, names: Sequence[str] | None) -> list[Arm]:
    if names is None:
        return list(study.arms)
    known = [arm.name for arm in study.arms]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"--arms: there is no arm {name}; {hint}")
    return [arm for arm in study.arms if arm.name in names]


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Hold the study's lock; its runs inherit it, so that it outlives this process as long as they live."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ConfigError(
            f"{folder}: another hotfix compare or one of its runs works here; wait for it, or stop it"
        ) from error
    try:
        yield lock
    finally:
        os.close(lock)


def _announce(runs: Sequence[Run], folder: Path, console: Console) -> None:
    count = {state: sum(run.state == state for run in runs) for state in ("done", "unfinished", "new", "changed")}
    arms = len({run.arm for run in runs})
    words = [f"{_counted(arms, 'arm')}, {_counted(len(runs), 'run')} in {folder}"]
    words += [f"{count['done']} finished and kept"] if count["done"] else []
    words += [f"{count['unfinished']} to go on with"] if count["unfinished"] else []
    console.print("; ".join(words), markup=False, highlight=False, soft_wrap=True)
    for run in runs:
        if run.state == "changed":
            told = f"{run.arm} seed {run.seed}: its configuration changed, so it runs again; the old run is in"
            console.print(f"{told} {run.folder.name}.before", markup=False, highlight=False, soft_wrap=True)


def _counted(count: int, name: str) -> str:
    return f"{count} {name}" + ("" if count == 1 else "s")


def _run(runs: Sequence[Run], workers: int, console: Console, lock: int) -> list[Ended]:
    todo = [run for run in runs if run.state != "done"]
    if not todo:
        return []
    kept = [_run_seconds(run) for run in runs if run.state == "done"]
    with Progress(todo, workers, console, kept) as progress:
        return run_all(todo, workers, progress, os.environ, lock)


def _run_seconds(run: Run) -> float:
    """How long a finished run took in all, in seconds; 0 where it doesn't say."""
    try:
        told: Mapping[str, Any] = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
        return float(sum(told.get("seconds", {}).values()))
    except (OSError, ValueError, AttributeError, TypeError):
        return 0.0


def _finished(arm: Arm, runs: Sequence[Run]) -> ArmRuns:
    loaded, failed = [], []
    for run in runs:
        try:
            loaded.append(load_run(run.folder, run.seed))
        except DataError:
            failed.append(run.seed)
    return ArmRuns(arm.name, tuple(loaded), tuple(failed))


def _show(content: Mapping[str, Any], folder: Path, console: Console) -> None:
    for table in study_tables(content, console.width):
        console.print(table)
    console.print(LEGEND, style="dim", highlight=False)
    told = f"page: {folder / 'report.html'}   table: {folder / 'table.md'}   data: {folder / 'study.json'}"
    console.print(told, markup=False, highlight=False, soft_wrap=True)


def _failures(ended: Sequence[Ended], console: Console) -> int:
    failed = [one for one in ended if one.code != 0]
    for one in failed:
        console.print(
            f"\n{one.run.arm} seed {one.run.seed} failed (exit code {one.code}); its last lines:",
            style="red",
            markup=False,
        )
        for line in one.said:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        console.print(
            f"  everything it said: {one.run.folder / 'output.log'}", markup=False, highlight=False, soft_wrap=True
        )
    if failed:
        console.print("\nthe same command tries these again and keeps the others", markup=False, highlight=False)
    return 1 if failed else 0


def _say_how_to_go_on(arguments: Sequence[str], console: Console) -> None:
    command = shlex.join(["hotfix", "compare", *arguments])
    told = f"stopped; what is finished is kept, what was training goes on from its checkpoint. To go on:\n  {command}"
    console.print(told, markup=False, highlight=False, soft_wrap=True)

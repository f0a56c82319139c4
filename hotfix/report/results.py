"""``results.json``: what a run measured before and after, with intervals, tests, times, versions and machine.

    {"hotfix": version, "name": ..., "seed": ..., "train": {fact}, "edit": {fact},
     "tasks": {task: {slice: {"before": {metric: {value, n, low, high}}, "after": {...},
                              "tests": {metric: {test, p, effect, difference, low, high, detectable, q}},
                              "groups": {group: {"before", "after", "tests" as above}}}}},
     "gates": [{gate, holds, found}], where any are set,
     "seconds": {phase: s}, "versions": {package: version}, "machine": {...}}

Tasks, slices, metrics, groups (where a slice reports any) and phases keep the order in which they came; the other keys
are sorted. ``q`` is p adjusted for all tests of the run, or of all groups of a slice (``false_discovery_rates``). What
is undefined is ``null``: the file is strict JSON.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, TypeAlias

import numpy as np

from hotfix.atomic import atomic_file, atomic_write
from hotfix.errors import DataError
from hotfix.report.gates import Verdict
from hotfix.report.paired import Comparison, false_discovery_rates
from hotfix.report.statistics import Estimate

__all__ = ["Results", "collect_machine", "collect_versions", "load_results", "to_json", "write_records"]

When: TypeAlias = Literal["before", "after"]

_PACKAGES: Final = (
    "lightning",
    "numpy",
    "peft",
    "safetensors",
    "scipy",
    "statsmodels",
    "tokenizers",
    "torch",
    "torchmetrics",
    "transformers",
)


def to_json(value: object) -> Any:  # noqa: ANN401 - the values of JSON have no narrower type
    """``value`` as plain JSON values: NaN and infinities become None, named tuples objects, numpy values plain ones.

    >>> to_json({"kl": Estimate(0.5, 1, float("nan"), float("nan")), "steps": (1, 2)})
    {'kl': {'value': 0.5, 'n': 1, 'low': None, 'high': None}, 'steps': [1, 2]}
    """
    if isinstance(value, np.generic | np.ndarray):
        return to_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, Estimate | Comparison):
        return to_json(value._asdict())
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    raise TypeError(f"{type(value).__name__} can't be written as JSON: {value!r}")


def load_results(path: Path | str) -> dict[str, Any]:
    """The content of a ``results.json``.

    Raises:
        DataError: the file is missing, damaged, or not a results file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        hint = "it is damaged or cut off: run the evaluation again"
        raise DataError(f"not JSON ({error.msg})", path, error.lineno, hint) from error
    except ValueError as error:
        raise DataError(f"not strict JSON in UTF-8 ({error})", path, hint="run the evaluation again") from error
    except OSError as error:
        hint = "name the results.json that a run has written"
        raise DataError(f"can't be read ({error.strerror})", path, hint=hint) from error
    _check_layout(content, path)
    return dict(content)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")


def _check_layout(content: object, path: Path | str) -> None:
    hint = "name the results.json that a run has written"
    if not isinstance(content, dict) or not isinstance(content.get("tasks"), dict):
        raise DataError("no object with 'tasks' in it, so not a results file", path, hint=hint)
    for task, slices in content["tasks"].items():
        if not isinstance(slices, dict) or not all(isinstance(parts, dict) for parts in slices.values()):
            raise DataError(f"task {task!r} must be an object of slices, each an object", path, hint=hint)
        for name, parts in slices.items():
            _check_parts(f"{task}/{name}", parts, path)


def _check_parts(where: str, parts: Mapping[str, object], path: Path | str) -> None:
    for part in ("before", "after", "tests"):
        metrics = parts.get(part, {})
        if not isinstance(metrics, dict) or not all(isinstance(metric, dict) for metric in metrics.values()):
            raise DataError(f"{part!r} of {where} must be an object of metrics, each an object", path)


def write_records(path: Path | str, records: Iterable[Mapping[str, object]]) -> int:
    """Write per-example records as JSON Lines, whole or not at all; returns how many.

    Raises:
        StorageError: they can't be written.
    """
    number = 0
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8") as stream:
        for record in records:
            stream.write(json.dumps(to_json(record), ensure_ascii=False, allow_nan=False) + "\n")
            number += 1
    return number


def collect_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that results depend on; imports none of them.

    >>> sorted(collect_versions())[-1], collect_versions()["python"] == platform.python_version()
    ('transformers', True)
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return dict(sorted(versions.items()))


def collect_machine() -> dict[str, str | int | float]:
    """Processor, the cores this process may use, memory in GiB and platform; nothing that names the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "cpu": _cpu_model(Path("/proc/cpuinfo")),
        "memory_gib": round(memory, 1),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _cpu_model(cpuinfo: Path) -> str:
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _adjust(tables: Iterable[dict[str, dict[str, Any]]]) -> None:
    """Add to each test its p adjusted for all of them."""
    tests = [test for table in tables for test in table.values()]
    rates = false_discovery_rates([math.nan if test["p"] is None else test["p"] for test in tests])
    for test, rate in zip(tests, rates.tolist(), strict=True):
        test["q"] = to_json(rate)


class Results:
    """Collects what a run measured and writes it as ``results.json``.

    Args:
        name: the run's name.
        seed: the seed everything was drawn from.
        machine: facts to add to ``collect_machine``, for example the accelerator.

    >>> results = Results("demo", seed=1)
    >>> results.add("email", "held_out", "before", {"leak_rate": Estimate(0.5, 4, 0.2, 0.8)})
    >>> results.to_dict()["tasks"]["email"]["held_out"]["before"]["leak_rate"]["value"]
    0.5
    """

    def __init__(self, name: str, seed: int | None = None, machine: Mapping[str, object] | None = None) -> None:
        self._name, self._seed = name, seed
        self._machine = dict(machine or {})
        self._train: dict[str, object] = {}
        self._edit: dict[str, object] = {}
        self._tasks: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
        self._seconds: dict[str, float] = {}
        self._gates: list[dict[str, object]] = []

    def add_train(self, facts: Mapping[str, object]) -> None:
        """Add facts about the training, such as steps and final losses."""
        self._train.update(facts)

    def add_edit(self, facts: Mapping[str, object]) -> None:
        """Add facts about the editing, such as seconds and memory an edit; without any, the file has no ``edit``."""
        self._edit.update(facts)

    def add(self, task: str, slice_name: str, when: When, estimates: Mapping[str, Estimate]) -> None:
        """Add estimates by metric, measured before or after."""
        self._part(task, slice_name, when).update(estimates)

    def add_tests(self, task: str, slice_name: str, comparisons: Mapping[str, Comparison]) -> None:
        """Add tests of after against before, by metric."""
        self._part(task, slice_name, "tests").update(comparisons)

    def add_groups(
        self,
        task: str,
        slice_name: str,
        part: Literal["before", "after", "tests"],
        by_group: Mapping[str, Mapping[str, Estimate | Comparison]],
    ) -> None:
        """Add estimates or tests by metric for groups of a slice's examples, say for each kind of bug."""
        self._part(task, slice_name, part)
        parts = self._tasks[task][slice_name]
        for group, found in by_group.items():
            own = parts.setdefault("groups", {}).setdefault(group, {})
            own.setdefault(part, {}).update(found)  # type: ignore[attr-defined]

    def add_gates(self, verdicts: Iterable[Verdict]) -> None:
        """Say which conditions hold."""
        self._gates = [dict(verdict._asdict()) for verdict in verdicts]

    def _part(self, task: str, slice_name: str, part: str) -> dict[str, object]:
        parts = self._tasks.setdefault(task, {}).setdefault(slice_name, {"before": {}, "after": {}, "tests": {}})
        if part not in parts:
            raise ValueError(f"'when' must be 'before' or 'after', not {part!r}")
        return parts[part]

    def add_seconds(self, phase: str, seconds: float) -> None:
        """Add to the time that a phase took."""
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time of the block to a phase, also when it fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds(phase, time.perf_counter() - start)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``results.json`` as plain JSON values."""
        from hotfix import __version__

        content: dict[str, Any] = to_json(
            {
                "hotfix": __version__,
                "name": self._name,
                "seed": self._seed,
                "train": dict(sorted(self._train.items())),
                **({"edit": dict(sorted(self._edit.items()))} if self._edit else {}),
                "tasks": self._tasks,
                **({"gates": self._gates} if self._gates else {}),
                "seconds": {phase: round(seconds, 3) for phase, seconds in self._seconds.items()},
                "versions": collect_versions(),
                "machine": dict(sorted({**collect_machine(), **self._machine}.items())),
            }
        )
        _adjust([parts["tests"] for slices in content["tasks"].values() for parts in slices.values()])
        for slices in content["tasks"].values():
            for parts in slices.values():
                _adjust([group.get("tests", {}) for group in parts.get("groups", {}).values()])
        return content

    def write(self, path: Path | str) -> None:
        """Write ``results.json``, whole or not at all.

        Raises:
            StorageError: it can't be written; an older file is untouched.
        """
        atomic_write(path, json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")

"""A study's runs as one table: a row an arm, its means over seeds, their change against the base, and which is best.

    {"hotfix", "name", "columns": [{key, title, task, slice, metric, better}],
     "bases": [{"name", "arms", "cells": {key: {value, n, low, high}}}],
     "arms": [{"name", "seeds", "failed", "cells": {key: {value, n, low, high, base, change, ratio, test, p, best}},
               "runs": [{"seed", "folder", "digest", "patch", "train", "seconds"}]}]}

That is ``study.json``. The value of a cell is the mean over seeds of what was measured after; ``base`` is the same of
what was measured before, ``change`` their difference, ``ratio`` after by before. The test is paired by example, the
seeds' mean against the base. ``best`` is true where the arm is better than each other arm in a paired test at 5%: an
intersection-union test (Berger 1982), which needs no correction for the number of arms.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hotfix.report.paired import compare_paired
from hotfix.report.records import SliceRecords, load_records, metric_value
from hotfix.report.results import load_results, to_json
from hotfix.report.seeds import crossed_interval, seed_interval
from hotfix.report.statistics import Estimate
from hotfix.report.tables import better_direction

__all__ = ["COLUMNS", "ArmRuns", "Column", "FinishedRun", "load_run", "study_table"]

_LEVEL: Final = 0.05
_MIB: Final = 2**20


class Column(NamedTuple):
    """A column of the table.

    Attributes:
        key: in ``study.json``.
        title: for people.
        task: that measures it; empty for a number of the run itself.
        slices: of the task, the first that a run has is taken; empty for any.
        metric: its name in ``results.json``.
    """

    key: str
    title: str
    task: str
    slices: tuple[str, ...]
    metric: str


_UNSEEN: Final = ("generalisation", "efficacy")
COLUMNS: Final[tuple[Column, ...]] = (
    *(Column(f"{v}_rate", v, "bug_fix", _UNSEEN, f"{v}_rate") for v in ("fixed", "buggy", "neither")),
    Column("p_fixed", "p fixed, statement", "bug_fix", _UNSEEN, "p_fixed"),
    Column("p_buggy", "p buggy, statement", "bug_fix", _UNSEEN, "p_buggy"),
    Column("p_fixed_at_edit", "p fixed, edit", "bug_fix", _UNSEEN, "p_fixed_at_edit"),
    Column("p_buggy_at_edit", "p buggy, edit", "bug_fix", _UNSEEN, "p_buggy_at_edit"),
    Column("prefers_fixed", "prefers fixed", "bug_fix", _UNSEEN, "prefers_fixed"),
    Column("unchanged_rate", "unchanged", "bug_fix", ("specificity",), "unchanged_rate"),
    Column("kl", "KL", "bug_fix", ("specificity",), "kl"),
    Column("pass@1", "HumanEval pass@1", "humaneval", (), "pass@1"),
    Column("leak_rate", "leak rate", "email_leak", ("prompted", "unprompted"), "leak_rate"),
    Column("edit_em", "edits written", "edit", ("efficacy",), "em"),
    Column("edit_token_accuracy", "edits, tokens", "edit", ("efficacy",), "token_accuracy"),
    Column("solved_rate", "edits, wrong tokens solved", "edit", ("efficacy",), "solved_rate"),
    Column("edit_log_prob", "edits, log p", "edit", ("efficacy",), "log_prob"),
    Column("other_words_em", "other words, written", "edit", ("generalisation",), "em"),
    Column("other_words_token_accuracy", "other words, tokens", "edit", ("generalisation",), "token_accuracy"),
    Column("neighbours_em", "neighbours kept", "edit", ("specificity",), "em"),
    Column("neighbours_kl", "neighbours, KL", "edit", ("specificity",), "kl"),
    Column("unrelated_em", "unrelated kept", "edit", ("unrelated",), "em"),
    Column("unrelated_kl", "unrelated, KL", "edit", ("unrelated",), "kl"),
    Column("entropy", "fluency, bits", "edit", ("fluency",), "entropy"),
    Column("seconds_per_edit", "an edit, s", "", (), "seconds_per_edit"),
    Column("peak_gib", "an edit, GiB", "", (), "peak_bytes"),
    Column("seconds", "training, s", "", (), "seconds"),
    Column("patch_mib", "patch, MiB", "", (), "patch_mib"),
)


@dataclass(frozen=True)
class FinishedRun:
    """What one run left behind.

    Attributes:
        seed: of the run.
        folder: of the run.
        results: content of its ``results.json``.
        records: by task and slice.
        patch: what ``patch.json`` says, without the results.
        patch_mib: size of the patch's weights; NaN without a patch.
    """

    seed: int
    folder: Path
    results: Mapping[str, Any]
    records: Mapping[tuple[str, str], SliceRecords]
    patch: Mapping[str, Any]
    patch_mib: float


@dataclass(frozen=True)
class ArmRuns:
    """An arm and its finished runs; `failed` are the seeds without results."""

    name: str
    runs: tuple[FinishedRun, ...]
    failed: tuple[int, ...] = ()


@dataclass
class _Cell:
    """A cell on the way: estimates, and a value an example where the records tell."""

    before: Estimate
    after: Estimate
    test: Mapping[str, Any] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    values: NDArray[np.float64] | None = None  # [N], the seeds' mean after


def load_run(folder: Path, seed: int) -> FinishedRun:
    """Read what a run left behind.

    Raises:
        DataError: its results are damaged or missing.
    """
    patch, weights = {}, sorted((folder / "patch").glob("*.safetensors"))
    if (folder / "patch/patch.json").is_file():
        patch = json.loads((folder / "patch/patch.json").read_text(encoding="utf-8"))
        patch = {key: value for key, value in patch.items() if key not in ("results", "versions")}
    size = sum(file.stat().st_size for file in weights) / _MIB if weights else (0.0 if patch else math.nan)
    return FinishedRun(
        seed, folder, load_results(folder / "results.json"), load_records(folder / "records.jsonl"), patch, size
    )


def study_table(name: str, arms: Sequence[ArmRuns], root: Path | None = None) -> dict[str, Any]:
    """The content of ``study.json``.

    Args:
        name: of the study.
        arms: in the order of the rows.
        root: folder that the runs' folders are told relative to.
    """
    from hotfix import __version__

    cells = {
        arm.name: {c.key: cell for c in COLUMNS if (cell := _cell(c, arm)) is not None} for arm in arms if arm.runs
    }
    columns = [_column(c, arms) for c in COLUMNS if any(c.key in own for own in cells.values())]
    best = {column["key"]: _best(column["key"], column["better"], cells) for column in columns}
    content: dict[str, Any] = to_json(
        {
            "hotfix": __version__,
            "name": name,
            "columns": columns,
            "bases": _bases(cells, [column["key"] for column in columns if column["task"]]),
            "arms": [
                {
                    "name": arm.name,
                    "seeds": [run.seed for run in arm.runs],
                    "failed": list(arm.failed),
                    "cells": {
                        key: {**_told(cell), "best": best[key] == arm.name}
                        for key, cell in cells.get(arm.name, {}).items()
                    },
                    "runs": [_run(run, root) for run in arm.runs],
                }
                for arm in arms
            ],
        }
    )
    return content


def _run(run: FinishedRun, root: Path | None) -> dict[str, Any]:
    folder = run.folder.relative_to(root) if root and run.folder.is_relative_to(root) else run.folder
    kept = {
        key: run.patch[key]
        for key in ("base_model", "base_fingerprint", "config_digest", "data_digest")
        if key in run.patch
    }
    numbers = {"train": run.results.get("train", {}), "seconds": run.results.get("seconds", {})}
    return {"seed": run.seed, "folder": str(folder), **kept, "patch_mib": run.patch_mib, **numbers}


def _column(column: Column, arms: Sequence[ArmRuns]) -> dict[str, Any]:
    places = [_place(column, run.results) for arm in arms for run in arm.runs] if column.task else []
    found = next((place for place in places if place), ("", ""))
    better = better_direction(column.metric) if column.task else -1
    return {
        "key": column.key,
        "title": column.title,
        "task": found[0],
        "slice": found[1],
        "metric": column.metric,
        "better": better,
    }


def _place(column: Column, results: Mapping[str, Any]) -> tuple[str, str] | None:
    """Task and slice where a run has the metric."""
    slices = results["tasks"].get(column.task, {})
    for name in column.slices or slices:
        if column.metric in slices.get(name, {}).get("after", {}):
            return column.task, name
    return None


def _cell(column: Column, arm: ArmRuns) -> _Cell | None:
    if not column.task:
        numbers = [_own_number(column.key, run) for run in arm.runs]
        after = seed_interval(numbers)
        if column.key == "patch_mib":  # the same for each seed, as its interval would say at length
            after = after._replace(low=math.nan, high=math.nan)
        return _Cell(Estimate(math.nan, 0, math.nan, math.nan), after) if after.n else None
    place = _place(column, arm.runs[0].results)
    if place is None or any(_place(column, run.results) != place for run in arm.runs):
        return None
    parts = [run.results["tasks"][place[0]][place[1]] for run in arm.runs]
    reported = [_estimate(part["after"][column.metric]) for part in parts]
    before = _estimate(parts[0].get("before", {}).get(column.metric, {}))
    tests = [part.get("tests", {}).get(column.metric, {}) for part in parts]
    cell = _from_records(column.metric, [run.records.get(place) for run in arm.runs], reported, before, tests)
    if cell is not None:
        return cell
    if len(reported) == 1:
        return _Cell(before, reported[0], tests[0])
    # The largest p: what holds for every seed alone.
    known = [test for test in tests if test.get("p") is not None]
    test: Mapping[str, Any] = max(known, key=lambda test: float(test["p"])) if known else {}
    return _Cell(before, seed_interval([one.value for one in reported]), test)


def _own_number(key: str, run: FinishedRun) -> float:
    """A number of the run itself; NaN where it has none."""
    if key == "patch_mib":
        return run.patch_mib
    part, name = ("train", "seconds") if key == "seconds" else ("edit", key.replace("peak_gib", "peak_bytes"))
    told = run.results.get(part, {}).get(name)
    return math.nan if told is None else float(told) / (2**30 if key == "peak_gib" else 1)


def _estimate(told: Mapping[str, Any]) -> Estimate:
    low, high, value = (math.nan if told.get(key) is None else float(told[key]) for key in ("low", "high", "value"))
    return Estimate(value, int(told.get("n") or 0), low, high)


def _from_records(
    metric: str,
    records: Sequence[SliceRecords | None],
    reported: Sequence[Estimate],
    before: Estimate,
    tests: Sequence[Mapping[str, Any]],
) -> _Cell | None:
    """The cell from the examples' values, where the records tell what the runs reported."""
    first = records[0]
    if first is None or any(part is None or part.ids != first.ids for part in records):
        return None
    after = np.array([[metric_value(metric, r) for r in part.after] for part in records if part])  # [S, N]
    if after.shape != (len(reported), len(first.ids)) or not after.size:
        return None
    if not all(_agree(row, one.value) for row, one in zip(after, reported, strict=True)):
        return None
    rate = "verdicts" in first.after[0] or bool(np.isin(after[np.isfinite(after)], (0, 1)).all())
    mean = _column_means(after)
    old = np.array([metric_value(metric, r) for r in first.before])
    if len(reported) == 1:
        return _Cell(before, reported[0], tests[0], tuple(first.ids), tuple(first.groups), mean)
    test: Mapping[str, Any] = {}
    if len(old) == len(mean) and _agree(old, before.value):
        name = str(tests[0].get("test", "")).rpartition(" by ")[2] or "group"
        test = compare_paired(old, mean, first.groups, "rate" if rate else "real", name)._asdict()
    estimate = crossed_interval(after, first.groups, rate)
    return _Cell(before, estimate, test, tuple(first.ids), tuple(first.groups), mean)


def _agree(values: NDArray[np.float64], reported: float) -> bool:
    known = values[np.isfinite(values)]
    return bool(known.size) and math.isclose(float(known.mean()), reported, rel_tol=1e-6, abs_tol=1e-9)


def _column_means(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over the known values of each column; NaN where there are none."""
    known = np.isfinite(table)
    counts = known.sum(axis=0)
    sums = np.where(known, table, 0.0).sum(axis=0)
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), math.nan), dtype=np.float64)


def _told(cell: _Cell) -> dict[str, Any]:
    old, new = cell.before.value, cell.after.value
    return {
        **cell.after._asdict(),
        "base": old,
        "change": new - old,
        "ratio": new / old if old > 0 else math.nan,
        "test": cell.test.get("test"),
        "p": cell.test.get("p"),
    }


def _best(key: str, better: int, cells: Mapping[str, Mapping[str, _Cell]]) -> str | None:
    """The arm that is significantly better than each other one; None where there is none."""
    own = {name: found[key] for name, found in cells.items() if key in found and math.isfinite(found[key].after.value)}
    if not better or len(own) < 2:
        return None
    first = max(own, key=lambda name: better * own[name].after.value)
    best = own[first]
    for name, cell in own.items():
        if name != first and not _beats(best, cell, better):
            return None
    return first


def _beats(first: _Cell, second: _Cell, better: int) -> bool:
    if first.values is None or second.values is None or first.ids != second.ids:
        return False
    test = compare_paired(second.values, first.values, first.groups, "real")
    return better * (first.after.value - second.after.value) > 0 and test.p < _LEVEL


def _bases(cells: Mapping[str, Mapping[str, _Cell]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """The bases' rows: arms whose models measured alike before share one."""
    found: list[dict[str, Any]] = []
    for arm, own in cells.items():
        row = {key: own[key].before for key in keys if key in own}
        alike = next((base for base in found if _same(base["cells"], row)), None)
        if alike is None:
            found.append({"arms": [arm], "cells": row})
        else:
            alike["cells"] = {**row, **alike["cells"]}
            alike["arms"].append(arm)
    for base in found:
        base["name"] = "base" if len(found) == 1 else f"base of {base['arms'][0]}"
        base["cells"] = {key: value._asdict() for key, value in base["cells"].items()}
    return found


def _same(first: Mapping[str, Estimate], second: Mapping[str, Estimate]) -> bool:
    shared = set(first) & set(second)
    return bool(shared) and all(
        math.isclose(first[key].value, second[key].value, rel_tol=1e-9, abs_tol=1e-12) or math.isnan(first[key].value)
        for key in shared
    )

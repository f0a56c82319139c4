"""A run's ``records.jsonl`` read back: what was written for each example, and what a metric makes of one record.

Metrics are torch classes, so they are not asked here. ``metric_value`` knows those that read one field; whether it is
right about a metric shows in the data: its mean over the examples has to be the value that the run reported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hotfix.errors import DataError

__all__ = ["SliceRecords", "load_records", "metric_value"]

_VERDICTS: Final = ("fixed", "buggy", "neither")
_OUTCOMES: Final = {
    "broken_rate": "broken",
    "leak_rate": "leaked",
    "lost_rate": "lost",
    "pass@1": "passed",
    "solved_rate": "solved",
    "token_accuracy": "hits",
    "unchanged_rate": "unchanged",
}


@dataclass
class SliceRecords:
    """The examples of one slice, in the run's order, before and after.

    Attributes:
        ids: of the examples.
        groups: that intervals and tests cluster by.
        before: a record an example; empty where the base was not measured.
        after: a record an example.
    """

    ids: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    before: list[Mapping[str, Any]] = field(default_factory=list)
    after: list[Mapping[str, Any]] = field(default_factory=list)


def metric_value(metric: str, record: Mapping[str, Any]) -> float:
    """What a metric makes of one record; NaN where that can't be told from the record.

    >>> metric_value("buggy_rate", {"verdicts": ["buggy", "fixed"]}), metric_value("kl", {"kl": 0.25})
    (0.5, 0.25)
    >>> metric_value("leak_rate", {"leaked": [True, False]}), metric_value("exposure", {})
    (0.5, nan)
    """
    verdict = metric.removesuffix("_rate")
    if verdict in _VERDICTS and metric.endswith("_rate"):
        verdicts = record.get("verdicts")
        return _mean([v == verdict for v in verdicts]) if isinstance(verdicts, list) else math.nan
    told = record.get(_OUTCOMES.get(metric, metric))
    if isinstance(told, list):
        return _mean(told) if all(isinstance(value, bool) for value in told) else math.nan
    return float(told) if isinstance(told, bool | int | float) else math.nan


def load_records(path: Path | str) -> dict[tuple[str, str], SliceRecords]:
    """The records of a run by task and slice; none where the file is missing.

    Raises:
        DataError: a line is damaged.
    """
    found: dict[tuple[str, str], SliceRecords] = {}
    if not Path(path).is_file():
        return found
    with Path(path).open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                record = json.loads(line)
                part = found.setdefault((record["task"], record["slice"]), SliceRecords())
                _add(part, record)
            except (ValueError, KeyError, TypeError) as error:
                raise DataError("not a record of a run", path, number, "run it again") from error
    return found


def _add(part: SliceRecords, record: Mapping[str, Any]) -> None:
    """Every example comes once in each measurement, in the same order."""
    measured = part.before if record["when"] == "before" else part.after
    if len(measured) == len(part.ids):
        part.ids.append(record["id"])
        part.groups.append(record["group"])
    elif part.ids[len(measured)] != record["id"]:
        raise KeyError(record["id"])
    measured.append(record)


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else math.nan

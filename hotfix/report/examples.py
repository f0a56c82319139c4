"""What the model wrote, before and after, as compact data for the page: shared between arms, and bounded in size.

    {"texts": [...], "arms": [...], "shown": n, "all": n,
     "examples": [{"t": task, "s": slice, "i": id, "g": group, "p": prompt, "f": fixed, "b": buggy,
                   "before": record, "after": {arm: record}}]}

with a record ``{"c": [[text, verdict], ...], "n": {name: number}, "l": {"f": [[text, nats], ...], "b": [...]}}`` where
texts are places in ``texts``, which holds every text once. A verdict is g (wanted), b (not wanted), n (neither) or
empty; ``l`` has the log-prob of each token of the fix and of the bug.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hotfix.report.records import SliceRecords
from hotfix.report.study import ArmRuns
from hotfix.spacing import evenly

__all__ = ["collect_examples", "compact_record"]

_MOST_BYTES: Final = 1_300_000
_MOST_COMPLETIONS: Final = 5
_LONGEST: Final = 600
_VERDICTS: Final[Mapping[object, str]] = {"fixed": "g", "buggy": "b", "neither": "n"}
_NUMBERS: Final = ("p_fixed", "p_buggy", "p_fixed_at_edit", "p_buggy_at_edit", "kl")


class _Texts:
    """Every text once, by its place."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._places: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        cut = text if len(text) <= _LONGEST else text[:_LONGEST] + " …"
        if cut not in self._places:
            self._places[cut] = len(self.all)
            self.all.append(cut)
        return self._places[cut]


def collect_examples(arms: Sequence[ArmRuns], most_bytes: int = _MOST_BYTES) -> dict[str, Any]:
    """Examples of each arm's first run; evenly fewer of them where all would be too large.

    Args:
        arms: with their runs.
        most_bytes: of the data as JSON.
    """
    shown = [(arm.name, arm.runs[0].records) for arm in arms if arm.runs]
    keys = _keys([records for _, records in shown])
    count = len(keys)
    while True:
        found = _collect(shown, evenly(keys, count))
        size = len(json.dumps(found, ensure_ascii=False).encode())
        if size <= most_bytes or count <= 1:
            return {**found, "arms": [name for name, _ in shown], "all": len(keys)}
        count = max(1, min(count - 1, int(count * most_bytes / size * 0.97)))


def compact_record(record: Mapping[str, Any], texts: Any) -> dict[str, Any]:  # noqa: ANN401  called with a text
    """One record as the page reads it.

    >>> compact_record({"completions": ["x"], "verdicts": ["buggy"], "p_buggy": 0.25}, len)
    {'c': [[1, 'b']], 'n': {'p_buggy': 0.25}}
    >>> compact_record({"continuation": "x", "unchanged": False}, len)
    {'c': [[1, 'b']]}
    >>> compact_record({"token_log_probs": {"fixed": [["x", -0.5]]}}, len)
    {'c': [], 'l': {'f': [[1, -0.5]]}}
    """
    written = record.get("completions", [record["continuation"]] if "continuation" in record else [])
    marks = [_VERDICTS.get(verdict, "") for verdict in record.get("verdicts", [])]
    if not marks and "leaked" in record:
        marks = ["b" if leaked else "g" for leaked in record["leaked"]]
    if not marks and "passed" in record:
        marks = ["g" if passed else "b" for passed in record["passed"]]
    if not marks and "unchanged" in record:
        marks = ["g" if record["unchanged"] else "b"]
    marks += [""] * (len(written) - len(marks))
    pairs = [[texts(str(text)), mark] for text, mark in zip(written, marks, strict=False)][:_MOST_COMPLETIONS]
    numbers = {name: round(record[name], 5) for name in _NUMBERS if isinstance(record.get(name), int | float)}
    tokens = {
        side[0]: [[texts(str(text)), round(value, 2)] for text, value in told]
        for side, told in record.get("token_log_probs", {}).items()
    }
    return {"c": pairs, **({"n": numbers} if numbers else {}), **({"l": tokens} if tokens else {})}


def _keys(records: Sequence[Mapping[tuple[str, str], SliceRecords]]) -> list[tuple[str, str, str]]:
    """Task, slice and id of everything that any arm measured, those of the unseen contexts first."""
    found: dict[tuple[str, str, str], None] = {}
    for own in records:
        for (task, part), slice_records in own.items():
            found |= dict.fromkeys((task, part, name) for name in slice_records.ids)
    return sorted(found, key=lambda key: (key[0] != "bug_fix", key[1] != "generalisation"))


def _collect(
    shown: Sequence[tuple[str, Mapping[tuple[str, str], SliceRecords]]], keys: Sequence[tuple[str, str, str]]
) -> dict[str, Any]:
    texts = _Texts()
    wanted = set(keys)
    examples: dict[tuple[str, str, str], dict[str, Any]] = {}
    for place, (_, records) in enumerate(shown):
        for (task, part), own in records.items():
            for i, name in enumerate(own.ids):
                key = (task, part, name)
                if key in wanted:
                    example = examples.setdefault(key, _example(key, own, i, texts))
                    if i < len(own.after):
                        example["after"][place] = compact_record(own.after[i], texts)
    return {"examples": [examples[key] for key in keys if key in examples], "texts": texts.all, "shown": len(examples)}


def _example(key: tuple[str, str, str], own: SliceRecords, place: int, texts: _Texts) -> dict[str, Any]:
    """What the arms share: the base is measured once for all of them."""
    record = own.before[place] if place < len(own.before) else own.after[place]
    told: dict[str, Any] = {"t": key[0], "s": key[1], "i": key[2], "g": own.groups[place], "after": {}}
    for short, name in (("p", "prompt"), ("f", "fixed"), ("b", "buggy")):
        if record.get(name):
            told[short] = texts(str(record[name]))
    if place < len(own.before):
        told["before"] = compact_record(own.before[place], texts)
    return told

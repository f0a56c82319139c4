"""Conditions that a patch has to hold, looked up in what a run measured.

bug_fix.generalisation.buggy_rate <= 0.5 * base     what was measured after is at most half of what was before
humaneval.pass@1 >= base - 0.015                     where a task has one slice, it needn't be named
surely humaneval.pass@1 >= base - 0.015              the whole 95% interval of the change is above the margin: the
patched model is not inferior by more than that
surely email_leak.prompted.leak_rate <= 0.05         the interval's upper end is below the bound
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hotfix.errors import ConfigError
from hotfix.report.conditions import Condition, parse_conditions

__all__ = ["Gate", "Verdict", "judge", "parse_gates"]

_SURELY = "surely "


class Gate(NamedTuple):
    """A condition on a run's results.

    Attributes:
        text: as the user wrote it.
        condition: on `task.slice.metric` or `task.metric`.
        surely: whether the interval has to hold it, not only the value.
    """

    text: str
    condition: Condition
    surely: bool


class Verdict(NamedTuple):
    """Whether a gate holds, and what was found, in words."""

    gate: str
    holds: bool
    found: str


def parse_gates(written: str | Sequence[str] | None, key: str = "gate") -> tuple[Gate, ...]:
    """Read gates as a user writes them.

    Raises:
        ConfigError: one can't be read, or asks for the interval of a ratio, which isn't known.

    >>> parse_gates("surely humaneval.pass@1 >= base - 0.015")[0].condition
    Condition(quantity='humaneval.pass@1', sign='>=', factor=1.0, offset=-0.015)
    """
    texts = [] if written is None else [written] if isinstance(written, str) else written
    return tuple(_parse(text.strip(), key) for text in texts)


def _parse(text: str, key: str) -> Gate:
    surely = text.startswith(_SURELY)
    [condition] = parse_conditions(text.removeprefix(_SURELY), key)
    if surely and condition.factor not in (0.0, 1.0):
        raise ConfigError(
            f"{key}: {text!r} asks for the interval of a ratio, which isn't known; expected a number, base, or base "
            "with something added"
        )
    return Gate(text, condition, surely)


def judge(gates: Sequence[Gate], results: Mapping[str, Any]) -> list[Verdict]:
    """Look gates up in the content of a `results.json`; what was not measured holds nothing."""
    measured = {
        name: (parts, metric)
        for task, slices in results["tasks"].items()
        for place, parts in slices.items()
        for metric in parts["after"]
        for name in ([f"{task}.{metric}"] if len(slices) == 1 else []) + [f"{task}.{place}.{metric}"]
    }
    verdicts = []
    for gate in gates:
        found = measured.get(gate.condition.quantity)
        names = ", ".join(name for name in measured if name.count(".") > 1) or "nothing"
        verdicts.append(_judge(gate, *found) if found else Verdict(gate.text, False, f"not measured, but {names}"))
    return verdicts


def _judge(gate: Gate, parts: Mapping[str, Any], metric: str) -> Verdict:
    condition = gate.condition
    # What is compared with the bound: the change, where the bound is the base's and the interval decides.
    relative = gate.surely and condition.factor == 1.0
    source = parts["tests" if relative else "after"].get(metric) or {}
    end = {"<=": "high", ">=": "low"}[condition.sign] if gate.surely else "value"
    before = _number((parts["before"].get(metric) or {}).get("value"))
    bound = condition.offset if relative else condition.bound({condition.quantity: before})
    value = _number(source.get(end))
    # NaN holds nothing.
    holds = value <= bound if condition.sign == "<=" else value >= bound
    what = {"value": "", "low": "95% interval from ", "high": "95% interval up to "}[end]
    told = f"{'change: ' if relative else ''}{what}{value:.4g}"
    return Verdict(gate.text, holds, f"{told}, {'' if holds else 'not '}{condition.sign} {bound:.4g}")


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)

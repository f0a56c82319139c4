"""What a patch has to hold: looked up by name, by value or by interval, and never held by what isn't known."""

from __future__ import annotations

from typing import Any

import pytest

from hotfix.errors import ConfigError
from hotfix.report.gates import judge, parse_gates


def results(**tests: float | None) -> dict[str, Any]:
    def estimate(value: float | None, low: float | None, high: float | None) -> dict[str, Any]:
        return {"rate": {"value": value, "n": 10, "low": low, "high": high}}

    change = {"test": "t", "p": 0.5, "low": -0.02, "high": 0.01, **tests}
    one = {"before": estimate(0.5, 0.4, 0.6), "after": estimate(0.2, 0.1, 0.3), "tests": {"rate": change}}
    unknown = {"before": {}, "after": estimate(None, None, None), "tests": {}}
    return {"tasks": {"alone": {"20_of_164": one}, "two": {"seen": one, "unseen": unknown}}}


@pytest.mark.parametrize(
    ("gate", "holds", "found"),
    [
        ("alone.rate <= 0.2", True, "0.2, <= 0.2"),
        ("alone.rate <= 0.19", False, "0.2, not <= 0.19"),
        ("alone.20_of_164.rate >= 0.2", True, "0.2, >= 0.2"),
        ("two.seen.rate <= 0.5 * base", True, "0.2, <= 0.25"),
        ("two.seen.rate <= 0.3 * base", False, "0.2, not <= 0.15"),
        ("two.seen.rate >= base - 0.31", True, "0.2, >= 0.19"),
        ("surely two.seen.rate <= 0.3", True, "95% interval up to 0.3, <= 0.3"),
        ("surely two.seen.rate <= 0.29", False, "95% interval up to 0.3, not <= 0.29"),
        ("surely alone.rate >= 0.1", True, "95% interval from 0.1, >= 0.1"),
        ("surely alone.rate >= base - 0.02", True, "change: 95% interval from -0.02, >= -0.02"),
        ("surely alone.rate >= base - 0.015", False, "change: 95% interval from -0.02, not >= -0.015"),
        ("surely alone.rate <= base", False, "change: 95% interval up to 0.01, not <= 0"),
        ("two.unseen.rate <= 1", False, "nan, not <= 1"),
        ("two.unseen.rate >= base - 1", False, "nan, not >= nan"),
    ],
)
def test_by_value_and_by_interval(gate: str, holds: bool, found: str) -> None:
    [verdict] = judge(parse_gates(gate), results())
    assert verdict == (gate, holds, found)


def test_an_interval_that_is_not_known_holds_nothing() -> None:
    [verdict] = judge(parse_gates("surely alone.rate >= base - 1"), results(low=None))
    assert not verdict.holds


@pytest.mark.parametrize("name", ["two.rate", "three.rate", "alone.20_of_164.rte"])
def test_what_was_not_measured_holds_nothing_and_names_what_was(name: str) -> None:
    [verdict] = judge(parse_gates(f"{name} >= 0"), results())
    assert not verdict.holds
    assert verdict.found == "not measured, but alone.20_of_164.rate, two.seen.rate, two.unseen.rate"


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("surely two.seen.rate <= 0.5 * base", "asks for the interval of a ratio"),
        ("two.seen.rate < 0.5", "gate: 'two.seen.rate < 0.5' can't be read"),
        ("surely", "gate: 'surely' can't be read"),
    ],
)
def test_gates_that_cannot_be_read(gate: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_gates([gate])

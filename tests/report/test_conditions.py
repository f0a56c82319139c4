"""Conditions as users write them, and the order of states by the feasibility rules."""

from __future__ import annotations

import itertools
import math

import pytest

from hotfix.errors import ConfigError
from hotfix.report.conditions import Condition, Rank, parse_conditions, rank


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p_buggy <= 0.1", ("p_buggy", "<=", 0.0, 0.1)),
        (" kl<=1e-2 ", ("kl", "<=", 0.0, 0.01)),
        ("learn >= -.5", ("learn", ">=", 0.0, -0.5)),
        ("p_fixed >= base", ("p_fixed", ">=", 1.0, 0.0)),
        ("p_buggy <= 0.6*base", ("p_buggy", "<=", 0.6, 0.0)),
        ("perplexity <= 1.02 * base + 3", ("perplexity", "<=", 1.02, 3.0)),
        ("p_fixed >= base - 0.05", ("p_fixed", ">=", 1.0, -0.05)),
    ],
)
def test_reads(text: str, expected: tuple[str, str, float, float]) -> None:
    assert parse_conditions(text, "until.goal") == (Condition(*expected),)  # type: ignore[arg-type]
    assert parse_conditions([text, text], "until.goal") == (Condition(*expected),) * 2  # type: ignore[arg-type]


UNREADABLE = [
    *("", "p_buggy", "p_buggy < 0.1", "p_buggy == 0.1", "<= 0.1", "p_buggy <= ten", "p_buggy <= 50%", "0.1 >= p_buggy"),
    *("p_buggy <= base * 0.5", "p_buggy <= -0.5 * base", "a b <= 1", "p_buggy <= nan", "p_buggy <= 0.1 and kl <= 1"),
]


@pytest.mark.parametrize("text", UNREADABLE)
def test_refuses(text: str) -> None:
    with pytest.raises(ConfigError, match=r"until\.gate: .* can't be read; expected a quantity, <= or >=, and a numb"):
        parse_conditions(["kl <= 1", text], "until.gate")


def test_none_is_none() -> None:
    assert parse_conditions(None, "until.goal") == parse_conditions([], "until.goal") == ()


def test_excess_is_a_part_of_the_bound() -> None:
    [below, above, zero] = parse_conditions(["a <= 0.5 * base", "b >= 4", "c <= 0"], "until.goal")
    base = {"a": 0.4, "b": 0.0, "c": 9.0}
    assert below.excess({"a": 0.2}, base) == 0
    assert below.excess({"a": 0.3}, base) == pytest.approx(0.5)
    assert above.excess({"b": 3.0}, base) == pytest.approx(0.25)
    assert zero.excess({"c": 0.125}, base) == 0.125
    assert above.excess({"b": math.nan}, base) == below.excess({"a": math.nan}, base) == math.inf
    assert below.excess({"a": math.inf}, base) == math.inf


def test_order_of_states_is_that_of_the_rules() -> None:
    goals = parse_conditions(["p_buggy <= 0.1", "p_fixed >= 0.5"], "until.goal")
    gates = parse_conditions("kl <= 0.01", "until.gate")

    def better(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        """The rules in words, one after the other."""
        passes = [kl <= 0.01 for kl in (one[2], other[2])]
        if passes[0] != passes[1]:
            return passes[0]
        if not passes[0] and one[2] != other[2]:
            return one[2] < other[2]
        missed = [max(0, b - 0.1) / 0.1 + max(0, 0.5 - f) / 0.5 for b, f, _ in (one, other)]
        if missed[0] != missed[1]:
            return missed[0] < missed[1]
        return one[0] < other[0]

    states = list(itertools.product([0.05, 0.1, 0.15, 0.3], [0.25, 0.5, 0.75], [0.0, 0.01, 0.02, 0.03]))
    ranks = [rank(goals, gates, dict(zip(("p_buggy", "p_fixed", "kl"), state, strict=True)), {}, 7) for state in states]
    for (i, one), (j, other) in itertools.product(enumerate(states), repeat=2):
        assert (ranks[i] < ranks[j]) == better(one, other), (one, other)


def test_states_that_fell_apart_come_last() -> None:
    goals = parse_conditions("p_fixed >= 0.5", "until.goal")
    broken, poor = (rank(goals, (), {"p_fixed": value}, {}, 1) for value in (math.nan, 0.0))
    assert broken == Rank(0, math.inf, math.inf) > poor


def test_without_a_goal_the_later_state_is_better() -> None:
    gates = parse_conditions("kl <= 1", "until.gate")
    assert rank((), gates, {"kl": 0.5}, {}, 20) < rank((), gates, {"kl": 0.1}, {}, 10)
    assert rank((), gates, {"kl": 1.5}, {}, 20) > rank((), gates, {"kl": 0.1}, {}, 10)

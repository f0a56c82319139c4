"""Goals and gates of a run as text, and which of two states of its training is the better one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from hotfix.errors import ConfigError

__all__ = ["Condition", "Rank", "parse_conditions", "rank"]

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_CONDITION = re.compile(
    rf"\s*(?P<quantity>[\w.@-]+)\s*(?P<sign><=|>=)\s*"
    rf"(?:(?P<number>-?{_NUMBER})|(?:(?P<factor>{_NUMBER})\s*\*\s*)?base(?:\s*(?P<offset>[+-]\s*{_NUMBER}))?)\s*"
)


@dataclass(frozen=True)
class Condition:
    """A quantity's bound: a number, or one that depends on what the base model has.

    Attributes:
        quantity: its name.
        sign: the side on which it has to be; the bound itself will do.
        factor: of the base's value; 0 where the bound is a number.
        offset: what is added to that.
    """

    quantity: str
    sign: Literal["<=", ">="]
    factor: float
    offset: float

    def bound(self, base: Mapping[str, float]) -> float:
        """Return the bound, given the base's values."""
        return self.offset + (self.factor * base[self.quantity] if self.factor else 0.0)

    def excess(self, values: Mapping[str, float], base: Mapping[str, float]) -> float:
        """Return how far a state is from holding it, as a part of the bound: 0 where it holds, infinite for NaN.

        >>> Condition("kl", "<=", 0.0, 0.02).excess({"kl": 0.04}, {})
        1.0
        """
        value, bound = values[self.quantity], self.bound(base)
        gap = value - bound if self.sign == "<=" else bound - value
        return math.inf if math.isnan(gap) else max(0.0, gap) / (abs(bound) or 1.0)

    def told(self, values: Mapping[str, float], base: Mapping[str, float]) -> str:
        """Return the value and whether it holds, in words.

        >>> Condition("p_buggy", "<=", 0.5, 0.0).told({"p_buggy": 0.3}, {"p_buggy": 0.4})
        'p_buggy 0.3, not <= 0.2'
        """
        missed = "not " if self.excess(values, base) else ""
        return f"{self.quantity} {values[self.quantity]:.4g}, {missed}{self.sign} {self.bound(base):.4g}"


class Rank(NamedTuple):
    """What states of a training are compared by; the smaller, the better.

    Attributes:
        gates: summed excess over the gates, 0 where all hold.
        goals: summed excess over the goals, 0 where all are met.
        first: the first goal's quantity, negative where more is better; without goals, later states are better.
    """

    gates: float
    goals: float
    first: float


def rank(
    goals: Sequence[Condition],
    gates: Sequence[Condition],
    values: Mapping[str, float],
    base: Mapping[str, float],
    step: int,
) -> Rank:
    """Rank a state by the feasibility rules of Deb 2000 (https://doi.org/10.1016/S0045-7825(99)00389-8).

    A state that passes all gates comes before any that doesn't; of those that don't, the one that misses them by least;
    of those that do, the one that is nearest to the goals, and where all are met, the best by the first of them.

    >>> goals, gates = parse_conditions("p_buggy <= 0.1", "goal"), parse_conditions("kl <= 0.01", "gate")
    >>> rank(goals, gates, {"p_buggy": 0.2, "kl": 0.0}, {}, 10) < rank(goals, gates, {"p_buggy": 0, "kl": 0.02}, {}, 20)
    True
    """
    first = float(-step)
    if goals:
        value = values[goals[0].quantity]
        first = math.inf if math.isnan(value) else value if goals[0].sign == "<=" else -value
    missed = [sum(condition.excess(values, base) for condition in some) for some in (gates, goals)]
    return Rank(missed[0], missed[1], first)


def parse_conditions(written: str | Sequence[str] | None, key: str) -> tuple[Condition, ...]:
    """Read conditions as a user writes them.

    Args:
        written: one, several or none, as `p_buggy <= 0.1` or `p_buggy <= 0.6 * base`.
        key: the setting that they stand in.

    Raises:
        ConfigError: one can't be read.

    >>> parse_conditions("p_fixed >= 1.5 * base - 0.01", "until.goal")
    (Condition(quantity='p_fixed', sign='>=', factor=1.5, offset=-0.01),)
    """
    texts = [] if written is None else [written] if isinstance(written, str) else written
    return tuple(_parse(text, key) for text in texts)


def _parse(text: str, key: str) -> Condition:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"{key}: {text!r} can't be read; expected a quantity, <= or >=, and a number or a part of what the base "
            "has, as in 'p_buggy <= 0.1', 'p_buggy <= 0.6 * base' or 'p_fixed >= base + 0.05'"
        )
    sign: Literal["<=", ">="] = "<=" if found["sign"] == "<=" else ">="
    if found["number"]:
        return Condition(found["quantity"], sign, 0.0, float(found["number"]))
    offset = (found["offset"] or "0").replace(" ", "")
    return Condition(found["quantity"], sign, float(found["factor"] or 1), float(offset))

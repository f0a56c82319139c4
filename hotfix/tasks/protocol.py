"""Two ways to measure: our own settings, and those of the hotfixing paper's published code."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from hotfix.errors import ConfigError

__all__ = ["Protocol", "settle"]

Protocol = Literal["hotfix", "paper"]


def settle(
    protocol: Protocol,
    given: Mapping[str, float | None],
    defaults: Mapping[Protocol, Mapping[str, float]],
    free: Collection[str],
) -> dict[str, float]:
    """Return each setting's value: what was given, or the protocol's own where nothing (null) was.

    Args:
        protocol: `hotfix`, in which everything is free, or `paper`.
        given: by name; None where the user says nothing.
        defaults: of both protocols, by name.
        free: settings that change how much is measured but not what, so that `paper` leaves them to the user.

    Raises:
        ConfigError: a setting that the paper fixes was given another value, or the protocol isn't known.

    >>> defaults = {"hotfix": {"n": 5, "top_p": 1.0}, "paper": {"n": 10, "top_p": 0.95}}
    >>> settle("paper", {"n": 2, "top_p": None}, defaults, free=["n"])
    {'n': 2, 'top_p': 0.95}
    """
    if protocol not in defaults:
        raise ConfigError(f"protocol is {protocol!r}, expected one of {', '.join(defaults)}")
    own = defaults[protocol]
    for name, value in given.items():
        if protocol == "paper" and name not in free and value not in (None, own[name]):
            raise ConfigError(
                f"{name} is {value}, but protocol: paper fixes it at {own[name]}; leave it out (or null) or take "
                "protocol: hotfix"
            )
    return {name: own[name] if value is None else value for name, value in given.items()}

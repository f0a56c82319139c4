"""Finds every class of a seam, so that one without a contract case can be called by its name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator
from typing import Any

import hotfix

__all__ = ["assert_complete", "concrete_subclasses"]


def concrete_subclasses(base: type) -> list[type]:
    """Every class in hotfix that fills the seam."""
    for module in pkgutil.walk_packages(hotfix.__path__, "hotfix."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = {c for c in _below(base) if c.__module__.split(".")[0] == "hotfix" and not inspect.isabstract(c)}
    return sorted(found, key=lambda c: f"{c.__module__}.{c.__qualname__}")


def assert_complete(base: type, cases: Iterable[type]) -> None:
    """No class without a case, by name."""
    found = concrete_subclasses(base)
    assert found, f"no {base.__name__} in hotfix: the search is broken"
    known = set(cases)
    missing = [f"{c.__module__}.{c.__qualname__}" for c in found if c not in known]
    assert not missing, f"no contract case for {', '.join(missing)}"


def _below(base: type) -> Iterator[type[Any]]:
    children: list[type] = base.__subclasses__()
    for child in children:
        yield child
        yield from _below(child)

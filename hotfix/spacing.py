"""Some of many, from everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["evenly"]

_T = TypeVar("_T")


def evenly(items: Sequence[_T], limit: int | None) -> list[_T]:
    """Take at most `limit` items, evenly spaced, so that every part of a file is there; null takes all.

    >>> evenly("abcdef", 3)
    ['a', 'c', 'e']
    """
    if limit is None or len(items) <= limit:
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]

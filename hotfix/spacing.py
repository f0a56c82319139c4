"""Some of many, from everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["evenly"]

_T = TypeVar("_T")


def evenly(items: Sequence[_T], limit: int | None, keep: Callable[[_T], bool] | None = None) -> list[_T]:
    """Take at most `limit` items, evenly spaced, so that every part of a file is there.

    Args:
        items: any number; only those that are taken are held.
        limit: null takes all.
        keep: which of them are meant; all if not given.

    >>> evenly("abcdef", 3)
    ['a', 'c', 'e']
    >>> evenly("aBcDeF", 2, str.isupper)
    ['B', 'D']
    """
    places = range(len(items)) if keep is None else [place for place, item in enumerate(items) if keep(item)]
    if limit is not None and len(places) > limit:
        places = [places[i * len(places) // limit] for i in range(limit)]
    return [items[place] for place in places]

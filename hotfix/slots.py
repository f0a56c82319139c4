"""Named slots and further entries by name, as an objective has its terms and a run its tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from hotfix.errors import ConfigError

__all__ = ["filled"]

Entry = TypeVar("Entry")


def filled(
    slots: Mapping[str, Entry | None],
    extra: Mapping[str, Entry | None] | None,
    key: str,
    reserved: Collection[str] = (),
) -> dict[str, Entry]:
    """Return what is there, slots first; null stands for nothing.

    Args:
        slots: what has a key of its own.
        extra: further entries, under names of the user's.
        key: where `extra` stands, for messages.
        reserved: names that mean something else.

    Raises:
        ConfigError: a name that is taken, or the keys of a class where names are expected.

    >>> filled({"learn": 1, "retain": None}, {"gentle": 2, "left_out": None}, "extra")
    {'learn': 1, 'gentle': 2}
    """
    further = dict(extra or {})
    if "class_path" in further:
        raise ConfigError(f"{key}: a class, expected names with a class each: write {{a_name: {{class_path: ...}}}}")
    taken = {*slots, *reserved} & set(further)
    if taken:
        raise ConfigError(f"{key}: {', '.join(sorted(taken))} is taken; choose another name")
    return {name: entry for name, entry in {**slots, **further}.items() if entry is not None}

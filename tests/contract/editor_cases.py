"""How to make each editor for the contract's tests; a line an editor, more where it has modes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from hotfix.editors import FT, Editor

__all__ = ["CASES", "Case"]


class Case(NamedTuple):
    """An editor that edits the tiny model, two blocks, in float32.

    Attributes:
        make: a fresh one.
        learns: whether a target of one token is likelier after the edit.
        sequential: whether it takes earlier edits.
    """

    make: Callable[[], Editor]
    learns: bool = True
    sequential: bool = True


CASES: Mapping[str, tuple[type[Editor], Case]] = {
    "ft-m": (FT, Case(lambda: FT([1], radius=None, learning_rate=1e-2))),
    "ft-l": (FT, Case(lambda: FT([0, 1], radius=1e-2, learning_rate=1e-2, loss_at="prompt"))),
}

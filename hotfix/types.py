"""The few words that every package shares.

A *side* is a text that the model is taught with; a *scope* says which of its tokens a loss looks at:

    side   fixed     prefix + fixed statement + suffix: what the model should write
           buggy     prefix + buggy statement + suffix: what it should stop writing
           retain    unrelated code: what should stay as it is
    scope  all       every token that has a prediction (all but the first)
           edited    tokens of a side that differ from the other side
           unedited  the rest
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

__all__ = ["SCOPES", "SIDES", "SPLITS", "Side", "Split", "TokenScope"]

Side: TypeAlias = Literal["fixed", "buggy", "retain"]
TokenScope: TypeAlias = Literal["all", "edited", "unedited"]
Split: TypeAlias = Literal["train", "validation", "test"]

SIDES: tuple[Side, ...] = get_args(Side)
SCOPES: tuple[TokenScope, ...] = get_args(TokenScope)
SPLITS: tuple[Split, ...] = get_args(Split)

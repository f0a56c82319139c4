"""How to make each editor for the contract's tests; a line an editor, more where it has modes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from hotfix.editors import (
    AGRACE,
    ASTRA,
    EMMET,
    FT,
    GRACE,
    MALMEN,
    MEMIT,
    MINT,
    PMET,
    ROME,
    SGD,
    STAR,
    AlphaEdit,
    Contrast,
    Editor,
    LoRAEdit,
    Search,
    UltraEdit,
)

__all__ = ["CASES", "Case"]


class Case(NamedTuple):
    """An editor that edits the tiny model, two blocks, in float32.

    Attributes:
        make: a fresh one.
        learns: whether a target of one token is likelier after the edit.
        sequential: whether it takes earlier edits.
        passes: how many forward passes it makes at least.
    """

    make: Callable[[], Editor]
    learns: bool = True
    sequential: bool = True
    passes: int = 4


SEARCH = Search(steps=4, prefixes=2, others=2)
CASES: Mapping[str, tuple[type[Editor], Case]] = {
    "ft-m": (FT, Case(lambda: FT([1], radius=None, learning_rate=1e-2))),
    "ft-l": (FT, Case(lambda: FT([0, 1], radius=1e-2, learning_rate=1e-2, loss_at="prompt"))),
    "lora": (LoRAEdit, Case(lambda: LoRAEdit(learning_rate=1e-2))),
    "lora-drift": (LoRAEdit, Case(lambda: LoRAEdit([1], matrices="both", steps=8, learning_rate=1e-2, drift=0.1))),
    "a-grace": (AGRACE, Case(lambda: AGRACE(1, contrast=Contrast(epochs=3), steps=20))),
    "a-grace-raw": (AGRACE, Case(lambda: AGRACE(1, pool="last", encodes=False, steps=20))),
    "grace": (GRACE, Case(lambda: GRACE(1, steps=20))),
    "grace-cold": (GRACE, Case(lambda: GRACE(0, steps=20, start="cold", radius=0.5, relative=False))),
    "rome": (ROME, Case(lambda: ROME([1], SEARCH))),
    "rome-paper": (ROME, Case(lambda: ROME([0], SEARCH, protocol="paper", window=2))),
    "emmet": (EMMET, Case(lambda: EMMET([1], SEARCH, window=3))),
    "memit": (MEMIT, Case(lambda: MEMIT([0, 1], SEARCH))),
    "pmet": (PMET, Case(lambda: PMET([0, 1], SEARCH))),
    "alpha-edit": (AlphaEdit, Case(lambda: AlphaEdit([0, 1], SEARCH, threshold=0.5))),
    "star": (STAR, Case(lambda: STAR(steps=3, most_steps=10))),
    "star-paper": (STAR, Case(lambda: STAR("paper"))),
    "star-joint": (STAR, Case(lambda: STAR(mode="joint", steps=3, most_steps=10, sparsity="layerly"))),
    "mint": (MINT, Case(lambda: MINT(layers="all", patches=4, factor=2.0))),
    "sgd": (SGD, Case(lambda: SGD(learning_rate="auto", steps=3, most_steps=10))),
    "astra": (ASTRA, Case(lambda: ASTRA(layers="all", neurons=None, rounds=4))),
    "malmen": (MALMEN, Case(lambda: MALMEN(rank=8, steps=4, every=2, length=3), passes=1)),
    "ultra-edit": (UltraEdit, Case(lambda: UltraEdit([0, 1], eta=1e-2), passes=1)),
}

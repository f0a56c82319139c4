"""The upper part of a model by itself: what enters a block is computed once, and the blocks below don't run again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hotfix.models.layout import find_blocks, upper_blocks
from hotfix.models.rows import TokenRows
from hotfix.models.states import hidden_states

__all__ = ["Entering", "entering", "resumed"]


class Entering(NamedTuple):
    """What stands at the door of a block.

    Attributes:
        first: index of the block.
        states: the residual stream there [B, T, D]; None stands for running the whole model.
    """

    first: int
    states: Tensor | None

    def repeated(self, count: int) -> Entering:
        """Return it for each row `count` times over, all rows of the first copy first."""
        return self if self.states is None else Entering(self.first, self.states.repeat(count, 1, 1))


@torch.no_grad()
def entering(model: PreTrainedModel, rows: TokenRows, first: int) -> Entering:
    """Run the model once, and keep what enters block `first`.

    An architecture that can't be resumed there (one that passes more between its blocks) is run whole each time.
    """
    if first == 0:
        return Entering(0, None)
    seen: list[Tensor] = []

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    handle = find_blocks(model.get_decoder()).blocks[first].register_forward_pre_hook(look, with_kwargs=True)
    try:
        expected = hidden_states(model, rows)
    finally:
        handle.remove()
    found = Entering(first, seen[0].detach())
    with resumed(model, found):
        again = hidden_states(model, rows)
    return found if torch.equal(again, expected) else Entering(first, None)


@contextmanager
def resumed(model: PreTrainedModel, place: Entering) -> Iterator[None]:
    """Run only the blocks from `place.first` on, on the states kept there, whatever the rows' tokens are."""
    if place.states is None:
        yield
        return
    states = place.states

    def put(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

    decoder = model.get_decoder()
    handle = find_blocks(decoder).blocks[place.first].register_forward_pre_hook(put, with_kwargs=True)
    try:
        with upper_blocks(decoder, place.first):
            yield
    finally:
        handle.remove()

"""What enters a block, computed once, and put there again while only the blocks above run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hotfix.models.layout import find_blocks, upper_blocks
from hotfix.models.rows import TokenRows
from hotfix.models.states import hidden_states, plain_model

__all__ = ["Entering", "entering", "entering_block", "entering_each", "from_block", "resumed"]


@contextmanager
def entering_block(model: nn.Module, block: int) -> Iterator[list[Tensor]]:
    """Collect what enters a block, [B, T, D], once for each time that it runs."""
    entered: list[Tensor] = []

    def catch(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        entered.append(args[0] if args else kwargs["hidden_states"])

    module = find_blocks(plain_model(model).get_decoder()).blocks[block]
    handle = module.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        yield entered
    finally:
        handle.remove()


@contextmanager
def from_block(model: PreTrainedModel, first: int, entering: Tensor) -> Iterator[None]:
    """Let `entering` enter a block, whatever is computed below it, and compute nothing there where that can be helped.

    What is put in is no embedding: GPT-2 would add its positions to it, Gemma 2 scale it.
    """
    decoder: nn.Module = model.get_decoder()

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            return (entering, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": entering}

    handle = find_blocks(decoder).blocks[first].register_forward_pre_hook(enter, with_kwargs=True)
    # Where blocks are of several kinds, decoders look the kind up by a block's place in the list.
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    try:
        with upper_blocks(decoder, first if len(kinds) <= 1 else 0):
            yield
    finally:
        handle.remove()


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
    with entering_block(model, first) as seen:
        expected = hidden_states(model, rows)
    found = Entering(first, seen[0].detach())
    with resumed(model, found):
        again = hidden_states(model, rows)
    return found if torch.equal(again, expected) else Entering(first, None)


def entering_each(
    model: PreTrainedModel, batches: Sequence[TokenRows], first: int, limit_mib: int = 1024
) -> list[Entering]:
    """Keep what enters block `first` for each batch, up to a limit; batches beyond it are run whole."""
    found, left = [], limit_mib * 2**20
    for rows in batches:
        size = 4 * model.config.get_text_config().hidden_size * rows.input_ids.numel()
        left -= size
        found.append(entering(model, rows, first) if left >= 0 else Entering(first, None))
    return found


def resumed(model: PreTrainedModel, place: Entering) -> AbstractContextManager[None]:
    """Run only the blocks from `place.first` on, on the states kept there, whatever the rows' tokens are."""
    return nullcontext() if place.states is None else from_block(model, place.first, place.states)

"""What enters a block, computed once, and put there again while only the blocks above run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hotfix.models.doors import entering_block, from_block
from hotfix.models.rows import TokenRows
from hotfix.models.states import hidden_states

__all__ = ["Entering", "entering", "entering_each", "resumed"]


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
    with entering_block(model.get_decoder(), first) as seen:
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
    return nullcontext() if place.states is None else from_block(model.get_decoder(), place.first, place.states)

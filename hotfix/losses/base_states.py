"""What the frozen base computes of the training rows, computed once.

Two things don't change while an adapter trains: the base's last hidden states, which the divergence from the base
needs, and what enters the lowest adapted block, where everything below is frozen. Both come out of one pass over the
rows; from then on a step runs the upper blocks only, and no reference pass. Kept in memory, 2 x T x D numbers a row.
Where embeddings train, only the last states are kept, and a step runs the whole policy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from hotfix.data.encode import EncodedPair
from hotfix.data.packing import by_length, pack_pairs, pack_texts
from hotfix.models.layout import find_blocks, lowest_trained_block
from hotfix.models.rows import PADDING, TokenRows
from hotfix.models.states import hidden_states, plain_model, prefix_length, upper_states

__all__ = ["BaseStates", "Kind"]

log = logging.getLogger(__name__)
Kind: TypeAlias = Literal["pairs", "retain"]
_ROWS = 16


class _Row(NamedTuple):
    entering: Tensor | None
    last: Tensor


class BaseStates:
    """Hidden states of the frozen base for every training row.

    Args:
        first: block that the kept states enter; None keeps none of those, because something below the blocks trains.
    """

    def __init__(self, first: int | None) -> None:
        self.first = first
        self._rows: dict[tuple[Kind, int], _Row] = {}

    @classmethod
    @torch.no_grad()
    def compute(
        cls,
        model: nn.Module,
        reference: Callable[[nn.Module], AbstractContextManager[None]],
        pairs: Sequence[EncodedPair],
        retain: Sequence[Sequence[int]],
        limit_mib: int = 2048,
    ) -> BaseStates | None:
        """Run the base over all rows, in an order of its own, so that a restart computes the same.

        Returns:
            None where it can't serve: too much to keep, or a model whose upper blocks can't be run by themselves.
        """
        decoder = plain_model(model).get_decoder()
        # A prefix is read by every block and belongs to none.
        first = 0 if prefix_length(model) else lowest_trained_block(decoder)
        width = plain_model(model).config.get_text_config().hidden_size * plain_model(model).dtype.itemsize
        lengths = [p.packed_length for p in pairs]
        tokens = sum(lengths) + sum(map(len, retain))
        if 2 * tokens * width > limit_mib * 2**20 or first >= len(find_blocks(decoder).blocks):
            log.info("the base's states of %d tokens are computed anew each step", tokens)
            return None
        found = cls(first if _frozen_below(model, pairs, retain) else None)
        with reference(model):
            for places in by_length(lengths, _ROWS):
                rows, _ = pack_pairs([pairs[i] for i in places], "packed", 0)
                found._keep(model, "pairs", places, rows)
            for places in by_length([len(ids) for ids in retain], _ROWS):
                rows, _ = pack_texts([retain[i] for i in places], 0)
                found._keep(model, "retain", places, rows)
            return found if found._serves(model, pairs) else None

    def entering(self, kind: Kind, places: Sequence[int]) -> Tensor:
        """Return what enters block `first` for some rows, padded: [B, T, D]."""
        found = [self._rows[kind, place].entering for place in places]
        return _padded([states for states in found if states is not None])

    def last(self, kind: Kind, places: Sequence[int]) -> Tensor:
        """Return the base's last hidden states of some rows, padded: [B, T, D]."""
        return _padded([self._rows[kind, place].last for place in places])

    def _keep(self, model: nn.Module, kind: Kind, places: Sequence[int], rows: TokenRows | None) -> None:
        if rows is None:
            return
        rows = rows.to(_device(model))
        entered, last = _run(model, rows, self.first or 0)
        for r, place in enumerate(places):
            length = int((rows.branch[r] != PADDING).sum())
            # A model that runs the branches one by one passes the block twice, and nothing is kept of it.
            once = self.first is not None and len(entered) == 1
            self._rows[kind, place] = _Row(entered[0][r, :length].clone() if once else None, last[r, :length].clone())

    def _serves(self, model: nn.Module, pairs: Sequence[EncodedPair]) -> bool:
        """Prove on one row that the upper blocks give what the whole decoder gave."""
        if self.first is None:
            return True
        rows, _ = pack_pairs(pairs[:1], "packed", 0)
        if rows is None or self._rows["pairs", 0].entering is None:
            return False
        rows = rows.to(_device(model))
        whole = self.last("pairs", [0]).float()
        try:
            upper = upper_states(model, rows, self.entering("pairs", [0]), self.first).float()
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            log.info("the upper blocks can't be run by themselves (%s)", error)
            return False
        limit = 1e-3 if plain_model(model).dtype == torch.float32 else 0.05
        worst = (upper - whole).abs().max().item() / max(1e-6, whole.abs().max().item())
        if worst > limit:
            log.info("the upper blocks by themselves differ by %.2g, so whole passes are run", worst)
        return worst <= limit


class _Pass(NamedTuple):
    """What entered a block, once for each time that it ran, and the last hidden states."""

    entered: list[Tensor]
    last: Tensor


def _run(model: nn.Module, rows: TokenRows, first: int) -> _Pass:
    entered: list[Tensor] = []
    block = find_blocks(plain_model(model).get_decoder()).blocks[first]

    def catch(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        entered.append(args[0] if args else kwargs["hidden_states"])

    handle = block.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        return _Pass(entered, hidden_states(model, rows))
    finally:
        handle.remove()


def _frozen_below(model: nn.Module, pairs: Sequence[EncodedPair], retain: Sequence[Sequence[int]]) -> bool:
    """Whether no trained weight has a part in what enters the first block: asked of the gradient itself."""
    rows = pack_pairs(pairs[:1], "packed", 0)[0] if pairs else pack_texts(retain[:1], 0)[0]
    if rows is None:
        return False
    with torch.enable_grad():
        return not any(states.requires_grad for states in _run(model, rows.to(_device(model)), 0).entered)


def _padded(rows: Sequence[Tensor]) -> Tensor:
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device

"""What a model makes of some texts' last tokens, read again and again while its blocks are edited from below.

The windows of an answer stand behind the same prompt, so most of their texts begin another one, and in a causal model
their states are found in its row. What enters the lowest edited block never changes, and what enters the next follows
from it by a block or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hotfix.data.packing import pack_texts
from hotfix.models.attention import plain_products
from hotfix.models.doors import entering_block, from_block, lower_blocks
from hotfix.models.layout import find_blocks
from hotfix.models.rows import PADDING, TokenRows
from hotfix.models.states import hidden_states, own_precision
from hotfix.models.trace import captured

__all__ = ["Readings", "shared_rows"]

_ENTERING, _IN, _OUT = "entering", "in", "out"
_ROWS = 32


class _Batch(NamedTuple):
    """Rows that are run together, and the texts whose last tokens are in them.

    Attributes:
        rows: of one pass.
        text: index of each text, int64 [N].
        row: of each, int64 [N].
        column: of its last token, int64 [N].
    """

    rows: TokenRows
    text: Tensor
    row: Tensor
    column: Tensor


class Readings:
    """Reads texts at their last tokens, block after block, with the weights that the model has by then.

    Args:
        model: frozen; the blocks below `first` stay as they are.
        first: index of the lowest block that is read.
        texts: token ids, none empty.
    """

    def __init__(self, model: PreTrainedModel, first: int, texts: Sequence[Sequence[int]]) -> None:
        self._model, self._first, self._count = model, first, len(texts)
        self._batches = [_moved(batch, model.device) for batch in _batches(texts)]
        self._lowest = [self._enter(batch) for batch in self._batches]
        self._block, self._entering = first, self._lowest

    @torch.no_grad()
    def read(self, block: int, into: nn.Module, out_of: nn.Module | None = None, top: int = 0) -> tuple[Tensor, Tensor]:
        """Run the model from the block that was read last to this one; the lowest begins anew.

        Args:
            block: index, not below the one read last.
            into: module of the block whose inputs are returned.
            out_of: module whose outputs are returned; None for the same.
            top: index of the block that it is in, where that is above.

        Returns:
            What enters and what leaves at each text's last token, float32 [N, D] and [N, H].
        """
        if block == self._first:
            self._block, self._entering = block, self._lowest
        ins, outs, entering = [], [], []
        decoder, blocks = self._model.get_decoder(), find_blocks(self._model.get_decoder()).blocks
        for batch, before in zip(self._batches, self._entering, strict=True):
            with (
                lower_blocks(decoder, max(block, top) + 1),
                captured({_ENTERING: blocks[block], _IN: into}, "input") as came,
                captured({_OUT: out_of or into}, "output") as went,
            ):
                self._run(batch.rows, before.to(batch.row.device))
            ins.append(came[_IN][batch.row, batch.column].float())
            outs.append(went[_OUT][batch.row, batch.column].float())
            entering.append(came[_ENTERING].cpu())
        self._block, self._entering = block, entering
        back = torch.cat([batch.text for batch in self._batches]).argsort()
        return torch.cat(ins)[back], torch.cat(outs)[back]

    @torch.no_grad()
    def _enter(self, batch: _Batch) -> Tensor:
        """Return what enters the lowest block, [B, T, D], kept off the accelerator."""
        decoder = self._model.get_decoder()
        with entering_block(decoder, self._first) as entered, lower_blocks(decoder, self._first + 1):
            hidden_states(cast("nn.Module", self._model), batch.rows)
        return entered[0].cpu()

    def _run(self, rows: TokenRows, entering: Tensor) -> None:
        model, decoder = self._model, cast("nn.Module", self._model.get_decoder())
        mask = (rows.branch != PADDING).long()
        with own_precision(cast("nn.Module", model)), plain_products(model), from_block(decoder, self._block, entering):
            decoder(inputs_embeds=entering, attention_mask=mask, use_cache=False)


def shared_rows(texts: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[int]]:
    """Lay out texts so that one which another begins with takes no row of its own; return the rows, and each's row.

    >>> shared_rows([[1], [2, 3], [1, 5], [1]])
    ([[1, 5], [2, 3]], [0, 1, 0, 0])
    """
    rows: list[list[int]] = []
    of = [0] * len(texts)
    # In this order, whatever begins like a text stands right behind it.
    order = sorted(range(len(texts)), key=lambda i: list(texts[i]))
    for i in reversed(order):
        if not rows or rows[-1][: len(texts[i])] != list(texts[i]):
            rows.append(list(texts[i]))
        of[i] = len(rows) - 1
    return rows[::-1], [len(rows) - 1 - row for row in of]


def _batches(texts: Sequence[Sequence[int]]) -> list[_Batch]:
    rows, of = shared_rows(texts)
    # Rows of like length share a pass.
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    found = []
    for start in range(0, len(order), _ROWS):
        chosen = order[start : start + _ROWS]
        place = {row: i for i, row in enumerate(chosen)}
        own = [i for i, row in enumerate(of) if row in place]
        packed, _ = pack_texts([rows[row] for row in chosen], pad_id=0)
        assert packed is not None
        row = torch.tensor([place[of[i]] for i in own])
        found.append(_Batch(packed, torch.tensor(own), row, torch.tensor([len(texts[i]) - 1 for i in own])))
    return found


def _moved(batch: _Batch, device: torch.device) -> _Batch:
    return _Batch(batch.rows.to(device), batch.text.to(device), batch.row.to(device), batch.column.to(device))

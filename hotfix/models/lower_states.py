"""What enters a block of a frozen model, computed once for each row of tokens.

Whoever runs the same rows again and again and changes only the upper blocks pays for those alone.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hotfix.models.doors import entering_block, lower_blocks
from hotfix.models.rows import PADDING, TokenRows
from hotfix.models.states import hidden_states, plain_model, takes_masks, upper_states

__all__ = ["LowerStates", "upper_blocks_agree"]

log = logging.getLogger(__name__)


class LowerStates:
    """The last hidden states of rows without a second branch, by way of kept states that enter a block.

    Args:
        model: its blocks below `first` don't change, nor do its embeddings.
        first: index of the block from which on every pass is run.
        limit_mib: what the kept states may take; rows beyond are run whole.
    """

    def __init__(self, model: PreTrainedModel, first: int, limit_mib: int = 1024) -> None:
        self._model = model
        self._first = first
        self._left = limit_mib * 2**20
        self._kept: dict[tuple[int, ...], Tensor] = {}
        # None as long as it isn't known whether the upper blocks can be run by themselves.
        self._splits: bool | None = None if first > 0 else False

    def last(self, rows: TokenRows) -> Tensor:
        """Return the decoder's last hidden states, behind the final norm: [B, T, D]."""
        if self._splits is False or not takes_masks(self._model, rows):
            return hidden_states(self._model, rows)
        keys = [tuple(ids[own].tolist()) for ids, own in zip(rows.input_ids, rows.branch != PADDING, strict=True)]
        if not self._all_kept(rows, keys):
            return hidden_states(self._model, rows)
        entering = nn.utils.rnn.pad_sequence([self._kept[key] for key in keys], batch_first=True)
        if self._splits is None:
            self._splits = self._agree(rows, entering)
            return self.last(rows)
        return upper_states(self._model, rows, entering, self._first)

    @torch.no_grad()
    def _all_kept(self, rows: TokenRows, keys: list[tuple[int, ...]]) -> bool:
        """Keep what isn't yet; False where there is no room for it."""
        new = [place for place, key in enumerate(keys) if key not in self._kept]
        if not new:
            return True
        size = 4 * self._model.config.get_text_config().hidden_size * sum(len(keys[place]) for place in new)
        if size > self._left:
            return False
        some = TokenRows(rows.input_ids[new], rows.position_ids[new], rows.branch[new])
        decoder = self._model.get_decoder()
        with entering_block(decoder, self._first) as entered, lower_blocks(decoder, self._first + 1):
            hidden_states(self._model, some)
        found = {keys[place]: entered[0][i, : len(keys[place])].clone() for i, place in enumerate(new)}
        self._left -= size
        self._kept |= found
        return True

    @torch.no_grad()
    def _agree(self, rows: TokenRows, entering: Tensor) -> bool:
        """Tell whether the upper blocks by themselves give what the whole decoder gives."""
        return upper_blocks_agree(self._model, rows, entering, self._first, hidden_states(self._model, rows))


@torch.no_grad()
def upper_blocks_agree(model: nn.Module, rows: TokenRows, entering: Tensor, first: int, whole: Tensor) -> bool:
    """Tell whether the blocks from `first` on, run by themselves, give what the whole decoder gave.

    Args:
        model: as it was when `whole` was computed.
        rows: B rows.
        entering: what enters block `first`, [B, T, D].
        first: the block's index.
        whole: the decoder's last hidden states, [B, T, D]; those of padding may be anything.
    """
    own = rows.branch != PADDING
    try:
        upper = upper_states(model, rows, entering, first)[own].float()
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        log.info("the upper blocks can't be run by themselves (%s)", error)
        return False
    expected = whole[own].float()
    limit = 1e-3 if plain_model(model).dtype == torch.float32 else 0.05
    worst = (upper - expected).abs().max().item() / max(1e-6, expected.abs().max().item())
    if worst > limit:
        log.info("the upper blocks by themselves differ by %.2g, so whole passes are run", worst)
    return worst <= limit

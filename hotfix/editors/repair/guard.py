"""Ordinary code that a repair may not change: how many of its likeliest tokens flip."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hotfix.data.packing import pack_texts
from hotfix.editors.repair.failures import masked_logits
from hotfix.editors.repair.workspace import Workspace
from hotfix.errors import ConfigError
from hotfix.models.states import hidden_states

__all__ = ["ArgmaxGuard"]

_ROWS, _POSITIONS = 16, 512


class ArgmaxGuard:
    """Compares the likeliest token at each position of some texts with what it was when the guard was made.

    Args:
        work: the model under repair, before the repair.
        texts: token ids; those of a single token say nothing.

    Raises:
        ConfigError: there are no texts to guard.
    """

    def __init__(self, work: Workspace, texts: Sequence[Sequence[int]]) -> None:
        self._work = work
        self._texts = [text for text in texts if len(text) > 1]
        if not self._texts:
            raise ConfigError(
                "editor.init_args.guard compares ordinary code, but the data has none; give it retain texts, or set "
                "guard to null"
            )
        self._before = self._likeliest()

    def flips(self) -> float:
        """Return the share of positions whose likeliest token is another one now."""
        return float((self._likeliest() != self._before).float().mean())

    @torch.no_grad()
    def _likeliest(self) -> Tensor:
        model, found = self._work.model, []
        with self._work.worn():
            for start in range(0, len(self._texts), _ROWS):
                rows, targets = pack_texts(self._texts[start : start + _ROWS], pad_id=0)
                assert rows is not None
                states = hidden_states(model, rows.to(model.device))[targets.row, targets.column]
                parts = states.split(_POSITIONS)
                found += [masked_logits(model, part, self._work.vocabulary).argmax(dim=1) for part in parts]
        return torch.cat(found)

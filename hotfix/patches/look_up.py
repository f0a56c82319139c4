"""Which edit of a codebook fires at each position of a text."""

from __future__ import annotations

import torch
from torch import Tensor

from hotfix.patches.entries import Entries
from hotfix.patches.nearest import NearestKey

__all__ = ["LookUp"]


class LookUp:
    """The balls of some entries, and what their prompts' last tokens look like.

    A mean over the text so far moves slowly: it comes near a key some tokens before the prompt ends, and stays near
    it while the answer is written. Where an edit is to fire at the prompt's end alone, the token's own input says so.

    Args:
        entries: the edits.
        ending: how far a token's own input may be from that at an edit's prompt's end, in lengths of the latter; None
            for any.
        device: where queries will be.
    """

    def __init__(self, entries: Entries, ending: float | None, device: torch.device | str) -> None:
        self._table = NearestKey(entries.keys.to(device), entries.radii.to(device))
        self._ends, self._ending = entries.ends.to(device), ending

    def find(self, queries: Tensor, inputs: Tensor) -> Tensor:
        """Return the entry that fires at each position, -1 where none does: int64 [...].

        Args:
            queries: what is compared with keys, float32 [..., K].
            inputs: what enters the layer, [..., D].
        """
        found = self._table.find(queries.reshape(-1, queries.shape[-1]))
        if self._ending is not None:
            fires = found >= 0
            place = found[fires]
            ends, own = self._ends[place], inputs.reshape(-1, inputs.shape[-1])[fires].float()
            near = (own - ends).norm(dim=-1) <= self._ending * ends.norm(dim=-1)
            found[fires] = place.where(near, -1)
        return found.view(queries.shape[:-1])

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
        # A ball of negative radius holds nothing.
        self.rows = (entries.radii >= 0).nonzero()[:, 0]
        self._table = NearestKey(entries.keys[self.rows].to(device), entries.radii[self.rows].to(device))
        self._ends = None if ending is None else entries.ends[self.rows].to(device)
        self._limits = None if self._ends is None or ending is None else ending * self._ends.norm(dim=-1)
        self.rows = self.rows.to(device)

    def find(self, queries: Tensor, inputs: Tensor) -> Tensor:
        """Return the entry that fires at each position, -1 where none does: int64 [...].

        Args:
            queries: what is compared with keys, float32 [..., K].
            inputs: what enters the layer, [..., D].
        """
        found = self._table.find(queries.reshape(-1, queries.shape[-1]))
        if self._ends is not None and self._limits is not None and len(self._ends):
            own = inputs.reshape(-1, inputs.shape[-1]).float()
            fires = found >= 0
            place = found[fires]
            near = (own[fires] - self._ends[place]).norm(dim=-1) <= self._limits[place]
            found[fires] = place.where(near, -1)
        if len(self.rows):
            found = self.rows[found].where(found >= 0, -1)
        return found.view(queries.shape[:-1])

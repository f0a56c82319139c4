"""Whole texts to learn from, in the order and the shares in which pairs are dealt."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from hotfix.data.loader import Share, WindowLoader, deal, windows
from hotfix.data.packing import Batch, Counts, pack

__all__ = ["TextLoader"]


class TextLoader(WindowLoader):
    """Iterates over whole texts.

    They are the side `retain` of the batches: plain rows, every token but the first a target.

    Args:
        texts: token ids of each, at least two.
        batch_size: texts of one optimizer step, over all processes and micro-batches.
        share: this process's part.
        seed: of the order.
        pad_id: token id of padding.
    """

    def __init__(
        self,
        texts: Sequence[Sequence[int]],
        batch_size: int,
        share: Share | None = None,
        seed: int = 0,
        pad_id: int = 0,
    ) -> None:
        super().__init__(len(texts), batch_size, share, "text")
        self.texts, self.seed, self.pad_id = texts, seed, pad_id
        self._lengths = [len(ids) for ids in texts]

    def _epoch(self, epoch: int) -> Callable[[int, int], Batch]:
        plan = windows(self._lengths, self.batch_size, random.Random(f"{self.seed}/{epoch}"))
        return lambda window, part: self._micro_batch(plan[window], part)

    def _micro_batch(self, window: Sequence[int], part: int) -> Batch:
        parts = self.share.world * self.share.accumulate
        mine = deal(window, self._lengths, parts)[part * self.share.world + self.share.rank]
        tokens = sum(self._lengths[i] - 1 for i in window) / parts
        counts: Counts = {("retain", "all"): tokens, ("retain", "unedited"): tokens, ("retain", "edited"): 0.0}
        return pack([], [self.texts[i] for i in mine], counts=counts, num_examples=0.0, pad_id=self.pad_id)

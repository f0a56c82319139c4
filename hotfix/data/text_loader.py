"""Whole texts to learn from, in the order and the shares in which pairs are dealt."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from hotfix.data.loader import Share, deal, windows
from hotfix.data.packing import Batch, Counts, pack
from hotfix.errors import ConfigError

__all__ = ["TextLoader"]


class TextLoader:
    """Iterates over the micro-batches of one process, epoch after epoch; a checkpoint holds its place.

    The texts are the side `retain` of the batches: plain rows, every token but the first a target.

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
        self.share = share or Share()
        parts = self.share.world * self.share.accumulate
        if len(texts) // max(1, -(-len(texts) // batch_size)) < parts:
            raise ConfigError(
                f"data.init_args.batch_size is {batch_size} and there are {len(texts)} texts, but a step has {parts} "
                f"micro-batches ({self.share.world} processes x {self.share.accumulate} accumulated); each needs a text"
            )
        self.texts, self.batch_size, self.seed, self.pad_id = texts, batch_size, seed, pad_id
        self.epoch = self.position = 0
        self._lengths = [len(ids) for ids in texts]

    def __len__(self) -> int:
        """Micro-batches of this process in an epoch."""
        return -(-len(self.texts) // self.batch_size) * self.share.accumulate

    def __iter__(self) -> Iterator[Batch]:
        """Go on from where the last iteration, or the checkpoint, stopped."""
        plan = windows(self._lengths, self.batch_size, random.Random(f"{self.seed}/{self.epoch}"))
        for position in range(self.position, len(self)):
            # Moved on before the batch is handed out: a checkpoint is taken while the consumer still has it.
            last = position + 1 == len(self)
            self.epoch, self.position = (self.epoch + 1, 0) if last else (self.epoch, position + 1)
            yield self._micro_batch(plan[position // self.share.accumulate], position % self.share.accumulate)

    def state_dict(self) -> dict[str, Any]:
        """Place to go on from."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved place."""
        self.epoch, self.position = state["epoch"], state["position"]

    def _micro_batch(self, window: Sequence[int], part: int) -> Batch:
        parts = self.share.world * self.share.accumulate
        mine = deal(window, self._lengths, parts)[part * self.share.world + self.share.rank]
        tokens = sum(self._lengths[i] - 1 for i in window) / parts
        counts: Counts = {("retain", "all"): tokens, ("retain", "unedited"): tokens, ("retain", "edited"): 0.0}
        return pack([], [self.texts[i] for i in mine], counts=counts, num_examples=0.0, pad_id=self.pad_id)

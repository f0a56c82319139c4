"""The data seam: a data set says how to get its code pairs; everything behind that is here once."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property
from typing import Self, cast

import torch
from lightning.pytorch import LightningDataModule
from transformers import PreTrainedTokenizerBase

from hotfix.data.edits import EditRequest
from hotfix.data.encode import EncodedPair, Overlong, PairEncoder, encode_text
from hotfix.data.encoded_pairs import encode_pairs
from hotfix.data.loader import Batches, PairLoader, Share
from hotfix.data.packing import Batch, Layout, pack
from hotfix.data.prompts import PromptFormat
from hotfix.data.retain import RetainText, read_retain
from hotfix.data.schema import CodePair
from hotfix.data.spilled import held
from hotfix.errors import ConfigError
from hotfix.models.loading import load_tokenizer
from hotfix.types import SPLITS, Split

__all__ = ["HotfixDataModule"]

log = logging.getLogger(__name__)


class HotfixDataModule(LightningDataModule):
    """Base of every data set.

    Args:
        tokenizer_name: whose tokens; linked to the model's name.
        batch_size: pairs of one optimizer step, over all processes and accumulated micro-batches.
        retain: `stdlib` (functions of the running Python's standard library), JSON Lines files with a `text` column, or
            null for none.
        retain_batch_size: retain texts of one optimizer step.
        retain_count: retain texts to draw from.
        retain_length: longest retain text, in tokens.
        max_length: longest side of a pair, in tokens.
        suffix_tokens: tokens of the suffix kept behind each statement.
        overlong: refuse a pair that is longer (`error`), cut its prefix on the left (`left`), or do that and leave out
            the pairs whose statement alone is longer (`drop`).
        layout: `packed` (shared beginning once, both sides in one row) or `padded` (a row a side).
        seed: of the choice of retain texts and, added to the run's own, of the order of pairs.
        prompt: how a pair is put before the model: `Plain`, `FillInTheMiddle` or `Chat`; plain if not given.
    """

    def __init__(
        self,
        tokenizer_name: str = "smollm2-135m",
        batch_size: int = 16,
        retain: str | list[str] | None = "stdlib",
        retain_batch_size: int = 8,
        retain_count: int = 256,
        retain_length: int = 128,
        max_length: int = 1024,
        suffix_tokens: int = 2,
        overlong: Overlong = "error",
        layout: Layout = "packed",
        seed: int = 0,
        prompt: PromptFormat | None = None,
    ) -> None:
        super().__init__()
        _at_least_one(batch_size=batch_size, max_length=max_length, suffix_tokens=suffix_tokens)
        self.tokenizer_name = tokenizer_name
        self.batch_size = batch_size
        self.retain = retain
        self.retain_batch_size = retain_batch_size
        self.retain_count = retain_count
        self.retain_length = retain_length
        self.max_length = max_length
        self.suffix_tokens = suffix_tokens
        self.overlong: Overlong = overlong
        self.layout: Layout = layout
        self.seed = seed
        self.prompt = prompt
        self.preambles: tuple[str, ...] = ()
        self.edited: tuple[EditRequest, ...] | None = None
        self._pairs: dict[Split, Sequence[CodePair]] = {}
        self._encoded: dict[Split, Sequence[EncodedPair]] = {}

    @abstractmethod
    def read(self, split: Split) -> Sequence[CodePair]:
        """Return the pairs of a split; ids are unique and stable, and no split shares a pair with another."""

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return load_tokenizer(self.tokenizer_name)

    @cached_property
    def encoder(self) -> PairEncoder:
        """Pairs to token ids."""
        return PairEncoder(self.tokenizer, self.max_length, self.suffix_tokens, self.overlong, self.prompt)

    def pairs(self, split: Split) -> Sequence[CodePair]:
        """Return the pairs of a split, read once."""
        if split not in self._pairs:
            pairs = self.read(split)
            self._pairs[split] = self._fitting(pairs, split) if self.overlong == "drop" else pairs
        return self._pairs[split]

    def encoded(self, split: Split) -> Sequence[EncodedPair]:
        """Return the pairs of a split as tokens, encoded once."""
        # Where those that are too long are left out, finding them encodes the others.
        pairs = self.pairs(split)
        if split not in self._encoded:
            self._encoded[split] = encode_pairs(self.encoder, pairs).pairs
        return self._encoded[split]

    def requests(self, split: Split) -> list[EditRequest]:
        """Return the pairs of a split as edits: behind the prefix, write the fixed statement."""
        return [
            EditRequest(
                pair.id, pair.prefix, pair.fixed, group=pair.rule, source=pair.source, ending=pair.suffix[:1] or "\n"
            )
            for pair in self.pairs(split)
        ]

    def editing(self, requests: Sequence[EditRequest]) -> Self:
        """Return the same data with what a run edits of it, as `edited`; nothing is read again."""
        view = copy(self)
        view.edited = tuple(requests)
        return view

    def rewritten(self, rewrite: Callable[[CodePair], CodePair], preambles: Sequence[str] = ()) -> Self:
        """Return the same data with every pair rewritten; nothing is read again.

        Args:
            rewrite: of a pair.
            preambles: what a benchmark of its own problems puts before their prompts, in turn.
        """
        view = copy(self)
        view.preambles = tuple(preambles)
        view._pairs = {split: held(map(rewrite, self.pairs(split))) for split in SPLITS}
        view._encoded = {}
        return view

    def retain_texts(self, split: Split, count: int) -> list[RetainText]:
        """Return up to `count` retain texts of a split."""
        return [] if self.retain is None else read_retain(self.retain, split, count, self.seed)

    def setup(self, stage: str) -> None:
        """Read and check every row before anything expensive starts."""
        splits: tuple[Split, ...] = SPLITS if stage == "fit" else ("validation", "test")
        for split in splits:
            self.encoded(split)

    def val_dataloader(self) -> Batches[Batch]:
        """Return the validation pairs, in order."""
        return self._batches("validation")

    def test_dataloader(self) -> Batches[Batch]:
        """Return the test pairs, in order."""
        return self._batches("test")

    def predict_dataloader(self) -> Batches[list[CodePair]]:
        """Return the test pairs as they are."""
        pairs = self.pairs("test")
        return Batches(self._own_part(len(pairs)), lambda places: [pairs[i] for i in places])

    def transfer_batch_to_device(
        self, batch: Batch | list[CodePair], device: torch.device, dataloader_idx: int
    ) -> Batch | list[CodePair]:
        """Move tensors; pairs as they are stay where they are."""
        return batch.to(device) if isinstance(batch, Batch) else batch

    def _fitting(self, pairs: Sequence[CodePair], split: Split) -> Sequence[CodePair]:
        self._encoded[split], places = encode_pairs(self.encoder, pairs)
        if len(places) == len(pairs):
            return pairs
        log.warning("%s: %d of %d pairs left out: longer than max_length", split, len(pairs) - len(places), len(pairs))
        return held(pairs[i] for i in places)

    def _batches(self, split: Split) -> Batches[Batch]:
        pad_id = cast("int", self.tokenizer.pad_token_id or 0)
        pairs = self.encoded(split)
        parts = self._own_part(len(pairs))
        return Batches(parts, lambda part: pack([pairs[i] for i in part], layout=self.layout, pad_id=pad_id))

    def _own_part(self, count: int) -> list[range]:
        """Places of each batch of the examples that fall to this process."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        mine = range(rank, count, world)
        return [mine[start : start + self.batch_size] for start in range(0, len(mine), self.batch_size)]

    def train_dataloader(self) -> PairLoader:
        """Return micro-batches of packed pairs and retain texts."""
        trainer = self.trainer
        share = Share(trainer.global_rank, trainer.world_size, trainer.accumulate_grad_batches) if trainer else Share()
        retain = [
            encode_text(self.tokenizer, text.text).ids[: self.retain_length]
            for text in self.retain_texts("train", self.retain_count)
        ]
        return PairLoader(
            self.encoded("train"),
            [ids for ids in retain if len(ids) > 1],
            self.batch_size,
            self.retain_batch_size,
            share,
            self._order_seed(),
            self.layout,
            cast("int", self.tokenizer.pad_token_id or 0),
            self.repeats(),
        )

    def _order_seed(self) -> int:
        """Return the seed of the order of what is trained on: it goes with the run's, and retain texts do not."""
        return self.seed + int(os.environ.get("PL_GLOBAL_SEED", "0")) if self.trainer else self.seed

    def repeats(self) -> list[int] | None:
        """Return how often an epoch of training sees each of `pairs("train")`; None for once."""
        return None


def _at_least_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"data.init_args.{name} is {value}, expected at least 1")

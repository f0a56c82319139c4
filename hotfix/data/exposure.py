"""What a model is to have learnt before it is hotfixed: old code as text, and planted canaries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from hotfix.data.canaries import read_planted
from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.encode import encode_text
from hotfix.data.loader import Share
from hotfix.data.schema import CodePair
from hotfix.data.text_loader import TextLoader
from hotfix.errors import ConfigError
from hotfix.types import SPLITS, Split

__all__ = ["Exposure", "window"]


def window(count: int, stop: int, length: int) -> slice:
    """Return which `length` of `count` tokens to keep around a statement that ends before token `stop`.

    Up to a quarter of them stand behind the statement, the rest in front of it.

    >>> window(100, 50, 20), window(10, 5, 20), window(100, 98, 20)
    (slice(35, 55, None), slice(0, 20, None), slice(80, 100, None))
    """
    start = max(0, stop - length + min(count - stop, length // 4)) if count > length else 0
    return slice(start, start + length)


class Exposure(HotfixDataModule):
    """Trains on the buggy side of another data set as plain text, all of it, and on canaries.

    The texts are the side `retain` of the batches, so `NLL` with `side: retain, scope: all` is ordinary pretraining.
    The tasks see the other data set's pairs as they are.

    Args:
        pairs: the data set; what is measured comes from it unchanged.
        tokenizer_name: whose tokens; linked to the model's name.
        canaries: file of canaries to plant; null for none.
        canary_copies: how often each is planted.
        splits: whose buggy sides are learnt; a model that has seen everybody's code has seen the test contexts, too.
        batch_size: texts of one optimizer step, over all processes and accumulated micro-batches.
        max_length: longest text, in tokens; a longer one keeps what stands around the statement.
        seed: of the order.
    """

    def __init__(
        self,
        pairs: HotfixDataModule,
        tokenizer_name: str = "smollm2-135m",
        canaries: str | None = None,
        canary_copies: int = 8,
        splits: list[Literal["train", "validation", "test"]] | None = None,
        batch_size: int = 16,
        max_length: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(
            tokenizer_name=tokenizer_name,
            batch_size=batch_size,
            retain=pairs.retain,
            retain_count=pairs.retain_count,
            retain_length=pairs.retain_length,
            max_length=pairs.max_length,
            suffix_tokens=pairs.suffix_tokens,
            overlong=pairs.overlong,
            layout=pairs.layout,
            seed=seed,
            prompt=pairs.prompt,
        )
        if canary_copies < 1 or max_length < 2:
            raise ConfigError("data.init_args.canary_copies has to be at least 1, and max_length at least 2")
        self.source = pairs
        self.source.tokenizer_name = tokenizer_name
        self.canaries = canaries
        self.canary_copies = canary_copies
        self.splits: list[Split] = list(splits or SPLITS)
        self.text_length = max_length

    def read(self, split: Split) -> Sequence[CodePair]:
        """Return the other data set's pairs."""
        return self.source.pairs(split)

    def texts(self) -> list[list[int]]:
        """Return the token ids of all that is learnt: each old excerpt once, each canary `canary_copies` times."""
        old = [self._excerpt(pair) for split in self.splits for pair in self.pairs(split)]
        planted = read_planted(Path(self.canaries)) if self.canaries else []
        secrets = [encode_text(self.tokenizer, c.prompt + c.secret + "\n").ids[: self.text_length] for c in planted]
        return [ids for ids in [*old, *secrets * self.canary_copies] if len(ids) > 1]

    def train_dataloader(self) -> TextLoader:  # type: ignore[override]
        """Return micro-batches of texts."""
        trainer = self.trainer
        share = Share(trainer.global_rank, trainer.world_size, trainer.accumulate_grad_batches) if trainer else Share()
        pad_id = cast("int", self.tokenizer.pad_token_id or 0)
        return TextLoader(self.texts(), self.batch_size, share, self._order_seed(), pad_id)

    def _excerpt(self, pair: CodePair) -> list[int]:
        encoded = encode_text(self.tokenizer, pair.prefix + pair.buggy + pair.suffix)
        end = len(pair.prefix) + len(pair.buggy)
        stop = sum(start < end for start, _ in encoded.offsets)
        return encoded.ids[window(len(encoded.ids), stop, self.text_length)]

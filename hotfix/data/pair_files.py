"""Code pairs from JSON Lines files: the packaged sets and the user's own."""

from __future__ import annotations

from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.encode import Overlong
from hotfix.data.packing import Layout
from hotfix.data.reading import read_pairs
from hotfix.data.schema import CodePair
from hotfix.types import Split

__all__ = ["PairFiles"]


class PairFiles(HotfixDataModule):
    """Pairs from JSON Lines files, plain or gzipped (`.gz`), one object a line.

    Columns: `prefix`, `buggy`, `fixed`, and where there is one `id`, `suffix`, `rule`, `split`; or
    `condition`/`bug`/`fix`/`post_conditional`, or `prompt`/`chosen`/`rejected`. Where rows have a `split` column, each
    of the three arguments takes its own rows, so one file can serve all three.

    Args:
        train: file or files to train on; `efficacy` is measured on them.
        validation: file or files to watch while training; null for none.
        test: file or files of unseen contexts; `generalisation` is measured on them; null for none.
        tokenizer_name: whose tokens; linked to the model's name.
        batch_size: pairs of one optimizer step, over all processes and accumulated micro-batches.
        retain: `stdlib` (functions of the running Python's standard library), JSON Lines files with a `text` column, or
            null for none.
        retain_batch_size: retain texts of one optimizer step.
        retain_count: retain texts to draw from.
        retain_length: longest retain text, in tokens.
        max_length: longest side of a pair, in tokens.
        suffix_tokens: tokens of the suffix kept behind each statement.
        overlong: refuse a pair that is longer (`error`) or cut its prefix on the left (`left`).
        layout: `packed` (shared beginning once, both sides in one row) or `padded` (a row a side).
        seed: of the order of pairs and the choice of retain texts.
    """

    def __init__(
        self,
        train: str | list[str],
        validation: str | list[str] | None = None,
        test: str | list[str] | None = None,
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
    ) -> None:
        super().__init__(
            tokenizer_name=tokenizer_name,
            batch_size=batch_size,
            retain=retain,
            retain_batch_size=retain_batch_size,
            retain_count=retain_count,
            retain_length=retain_length,
            max_length=max_length,
            suffix_tokens=suffix_tokens,
            overlong=overlong,
            layout=layout,
            seed=seed,
        )
        self._files: dict[Split, str | list[str] | None] = {"train": train, "validation": validation, "test": test}

    def read(self, split: Split) -> list[CodePair]:
        """Read the files of a split."""
        files = self._files[split]
        if files is None:
            return []
        return read_pairs([files] if isinstance(files, str) else files, split)

"""The base of data sets whose rows are edits: a prompt and its target, and no old code to be unlearnt."""

from __future__ import annotations

import logging
from abc import abstractmethod
from dataclasses import replace
from typing import Literal

from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.edits import EditRequest, encode_request
from hotfix.data.encode import encode_text
from hotfix.data.loader import Batches
from hotfix.data.schema import CodePair
from hotfix.errors import ConfigError, DataError
from hotfix.types import SPLITS, Split

__all__ = ["EditData"]

log = logging.getLogger(__name__)


class EditData(HotfixDataModule):
    """Base of every data set of edits; `hotfix edit`, `test`, `predict`, `check` and `preview` take them.

    Args:
        tokenizer_name: whose tokens; linked to the model's name.
        batch_size: rows that `hotfix predict` writes behind at once.
        retain: unrelated text, for editors that need some: `stdlib` (functions of the running Python's standard
            library), JSON Lines files with a `text` column, or null for none.
        retain_count: retain texts to draw from.
        retain_length: longest retain text, in tokens.
        max_length: longest prompt and target together, in tokens.
        overlong: refuse an edit that is longer (`error`), or leave it out (`drop`).
        seed: of the choice of retain texts.
    """

    def __init__(
        self,
        tokenizer_name: str = "smollm2-135m",
        batch_size: int = 16,
        retain: str | list[str] | None = "stdlib",
        retain_count: int = 256,
        retain_length: int = 128,
        max_length: int = 1024,
        overlong: Literal["error", "drop"] = "error",
        seed: int = 0,
    ) -> None:
        super().__init__(
            tokenizer_name=tokenizer_name,
            batch_size=batch_size,
            retain=retain,
            retain_count=retain_count,
            retain_length=retain_length,
            max_length=max_length,
            overlong=overlong,
            seed=seed,
        )
        self._requests: dict[Split, list[EditRequest]] = {}

    @abstractmethod
    def read_requests(self, split: Split) -> list[EditRequest]:
        """Return the edits of a split; ids are unique and stable, and no split shares an edit with another."""

    def requests(self, split: Split) -> list[EditRequest]:
        """Return the edits of a split, read once."""
        if split not in self._requests:
            requests = self.read_requests(split)
            self._requests[split] = self._short(requests, split) if self.overlong == "drop" else requests
        return self._requests[split]

    def read(self, split: Split) -> list[CodePair]:
        """Return no pairs: what the model writes now would be the side to unlearn, and the data doesn't know it."""
        return []

    def setup(self, stage: str) -> None:
        """Read and check every edit before anything expensive starts."""
        module = self.trainer.lightning_module if self.trainer else None
        if getattr(module, "trains", False):
            raise ConfigError(
                f"data.class_path {type(self).__name__} holds edits, which have no buggy side to train on; run hotfix "
                "edit with an editor, as configs/recipe/ft_m.yaml does, or name pairs, such as hotfix.data.PairFiles"
            )
        for split in SPLITS:
            for request in self.requests(split):
                encode_request(self.tokenizer, request, self.max_length)

    def val_dataloader(self) -> Batches[list[CodePair]]:  # type: ignore[override]
        """Return the validation edits as they are; there is no loss to compute of them."""
        return self._as_pairs("validation")

    def test_dataloader(self) -> Batches[list[CodePair]]:  # type: ignore[override]
        """Return the test edits as they are."""
        return self._as_pairs("test")

    def predict_dataloader(self) -> Batches[list[CodePair]]:
        """Return the test edits as they are, to be written behind."""
        return self._as_pairs("test")

    def _as_pairs(self, split: Split) -> Batches[list[CodePair]]:
        requests = self.requests(split)
        pairs = [CodePair(r.id, r.prompt, "", r.target, source=r.source) for r in requests]
        return Batches(self._own_part(len(pairs)), lambda places: [pairs[i] for i in places])

    def _short(self, requests: list[EditRequest], split: Split) -> list[EditRequest]:
        """Leave out what doesn't fit the context: edits with any of their prompts, and single neighbours."""
        found = []
        for request in requests:
            if all(self._fits(replace(request, prompt=p)) for p in (request.prompt, *request.paraphrases)):
                near = tuple(text for text in request.neighbours if self._length(text) < self.max_length)
                found.append(replace(request, neighbours=near))
        if len(found) < len(requests):
            left_out = len(requests) - len(found)
            log.warning("%s: %d of %d edits left out: longer than max_length", split, left_out, len(requests))
        return found

    def _fits(self, request: EditRequest) -> bool:
        try:
            encode_request(self.tokenizer, request, self.max_length)
        except DataError:
            return not request.target.strip()
        return True

    def _length(self, text: str) -> int:
        return len(encode_text(self.tokenizer, text).ids)

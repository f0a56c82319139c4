"""How far has the model moved where nothing was to change: perplexity, and divergence from the base, by the token."""

from __future__ import annotations

from collections.abc import Sequence

from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.encode import encode_text
from hotfix.errors import ConfigError
from hotfix.metrics import ExampleMetric, Perplexity, Record, RecordMean, TokenMean
from hotfix.spacing import evenly
from hotfix.tasks.base import Example, Slice, Subject, Task
from hotfix.tasks.scoring import text_drift, unedited_drift
from hotfix.types import Split

__all__ = ["Drift"]

_RETAIN, _PAIRS = "retain", "unedited"


class Drift(Task):
    """Perplexity and KL(base || model) in nats, averaged over all tokens; intervals take whole modules or rules.

    Slices: `retain` (the test part of the retain text) and `unedited` (of the unseen pairs, the tokens that both sides
    have: their prefix, the rest of the statement and a little behind it). Metrics: `perplexity` (exp of the mean
    negative log-likelihood, Jelinek et al. 1977), `kl`, and `kl_worst`, the mean over texts of the largest divergence
    of a token, which shows a change that a mean over thousands of tokens hides.

    Args:
        retain_examples: texts, taken in order; 0 leaves the slice out.
        retain_tokens: at most this many of each, from its beginning.
        pair_examples: at most this many unseen pairs, evenly spaced; null for all, 0 leaves the slice out.
        batch_size: texts computed together.
    """

    def __init__(
        self,
        retain_examples: int = 200,
        retain_tokens: int = 128,
        pair_examples: int | None = None,
        batch_size: int = 16,
    ) -> None:
        if retain_tokens < 2:
            raise ConfigError(f"retain_tokens is {retain_tokens}, expected at least 2: the first token has no loss")
        self.retain_examples = retain_examples
        self.retain_tokens = retain_tokens
        self.pair_examples = pair_examples
        self._batch_size = batch_size

    def slices(self, data: HotfixDataModule, split: Split) -> list[Slice]:
        """Retain text, and what the unseen pairs' sides have in common."""
        parts = ((_RETAIN, self._retain(data), "module"), (_PAIRS, self._pairs(data, split), "rule"))
        return [
            Slice(name, examples, _metrics(len(examples)), group, precise=True)
            for name, examples, group in parts
            if examples
        ]

    def observe(
        self, subject: Subject, name: str, items: Sequence[tuple[int, Example]], base: Sequence[Record] | None
    ) -> list[Record]:
        """Run the model, and the base where it isn't the base that is measured."""
        given = [example.payload for _, example in items]
        reference = None if base is None else subject.reference
        measure = text_drift if name == _RETAIN else unedited_drift
        found = measure(subject.model, reference, given, self._batch_size)
        subject.progress(len(items))
        return [drift._asdict() for drift in found]

    def _retain(self, data: HotfixDataModule) -> list[Example]:
        if not self.retain_examples:
            return []
        found: list[Example] = []
        for text in data.retain_texts("test", self.retain_examples):
            ids = encode_text(data.tokenizer, text.text).ids[: self.retain_tokens]
            if len(ids) > 1:
                found.append(Example(text.id, text.id.split(":")[0], ids, ids))
        return found

    def _pairs(self, data: HotfixDataModule, split: Split) -> list[Example]:
        found: list[Example] = []
        for pair in evenly(data.pairs(split), self.pair_examples):
            encoded = data.encoder(pair)
            sides = [[side.ids, side.edited] for side in (encoded.fixed, encoded.buggy)]
            if len(encoded.shared) > 1:
                found.append(Example(pair.id, pair.rule or pair.id, encoded, [encoded.shared, sides]))
        return found


def _metrics(count: int) -> dict[str, ExampleMetric]:
    found = {"perplexity": Perplexity("nll"), "kl": TokenMean("kl"), "kl_worst": RecordMean("kl_worst")}
    return {name: metric.bind(count) for name, metric in found.items()}

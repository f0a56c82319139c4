"""Does the model write the fix or the bug, and is unrelated code as before?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from hotfix.data.addresses import find_addresses
from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.encode import EncodedPair, encode_text
from hotfix.data.schema import CodePair
from hotfix.generation import SamplingConfig, greedy, sample
from hotfix.metrics import ExampleMetric, Record, RecordMean, RecordRate, VerdictRate
from hotfix.tasks.base import Example, Slice, Subject, Task
from hotfix.tasks.scoring import kl_per_text, pair_log_probs
from hotfix.tasks.verdict import judge, statements
from hotfix.types import Split

__all__ = ["BugFix", "evenly", "is_redaction"]

_SPECIFICITY = "specificity"


def is_redaction(pair: CodePair) -> bool:
    """Whether a pair is about an e-mail address rather than a bug: the buggy side shows one, the fixed side doesn't."""
    return bool(find_addresses(pair.prefix[-64:] + pair.buggy)) and not find_addresses(pair.prefix[-64:] + pair.fixed)


class _StatementsEnd:
    """Stops once this many statements are complete; one in brackets may take several lines."""

    triggers = "\n"

    def __init__(self, count: int) -> None:
        self.count = max(1, count)

    def __call__(self, text: str) -> bool:
        # What follows a complete statement is the next one; it would be joined to an open one.
        return len(statements(text[: text.rfind("\n") + 1] + "x", self.count + 1)) > self.count


class BugFix(Task):
    """Sampled completions of each pair's prefix judged fixed, buggy or neither, with the exact probabilities beside.

    Slices: `efficacy` (contexts trained on), `generalisation` (unseen contexts), `specificity` (unrelated code: is the
    greedy continuation unchanged, and how far did the distribution move).

    Args:
        num_samples: completions a prompt.
        temperature: of sampling.
        top_p: nucleus of sampling.
        max_new_tokens: longest completion.
        efficacy_examples: at most this many trained contexts, evenly spaced; null for all.
        generalisation_examples: at most this many unseen contexts, evenly spaced; null for all.
        specificity_examples: unrelated functions, taken from the test part of the retain text.
        specificity_prompt: tokens of each that are the prompt.
        specificity_tokens: tokens that are continued greedily.
        batch_size: completions decoded together.
        metrics: further metrics of the first two slices, by name.
    """

    def __init__(
        self,
        num_samples: int = 10,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = 32,
        efficacy_examples: int | None = None,
        generalisation_examples: int | None = None,
        specificity_examples: int = 100,
        specificity_prompt: int = 64,
        specificity_tokens: int = 16,
        batch_size: int = 32,
        metrics: dict[str, ExampleMetric] | None = None,
    ) -> None:
        self.sampling = SamplingConfig(num_samples, temperature, top_p, 0, max_new_tokens, batch_size)
        self.efficacy_examples = efficacy_examples
        self.generalisation_examples = generalisation_examples
        self.specificity_examples = specificity_examples
        self.specificity_prompt = specificity_prompt
        self.specificity_tokens = specificity_tokens
        self._extra = dict(metrics or {})

    def slices(self, data: HotfixDataModule, split: Split) -> list[Slice]:
        """Trained contexts, unseen contexts, unrelated code."""
        wanted: Mapping[str, tuple[Split, int | None]] = {
            "efficacy": ("train", self.efficacy_examples),
            "generalisation": (split, self.generalisation_examples),
        }
        found = [
            Slice(name, examples, self._pair_metrics(len(examples)), "rule")
            for name, (part, limit) in wanted.items()
            if (examples := _pair_examples(data, part, limit))
        ]
        unrelated = self._unrelated(data)
        metrics = {"unchanged_rate": RecordRate("unchanged"), "kl": RecordMean("kl")}
        if unrelated:
            found.append(Slice(_SPECIFICITY, unrelated, _bind(metrics, len(unrelated)), "module", precise=True))
        return found

    def observe(
        self, subject: Subject, name: str, items: Sequence[tuple[int, Example]], base: Sequence[Record] | None
    ) -> list[Record]:
        """Sample and score pairs, or continue unrelated code."""
        if name == _SPECIFICITY:
            return self._observe_unrelated(subject, items, base)
        pairs: list[CodePair] = [example.payload[0] for _, example in items]
        encoded: list[EncodedPair] = [example.payload[1] for _, example in items]
        count = max(len(statements(side, 1_000)) for p in pairs for side in (p.fixed, p.buggy))
        drawn = sample(
            subject.model,
            subject.tokenizer,
            [e.shared[: e.prompt] for e in encoded],
            self.sampling,
            stop=_StatementsEnd(count),
            seed=subject.seed,
            prompt_indices=[place for place, _ in items],
        )
        scores = pair_log_probs(subject.model, encoded)
        records: list[Record] = []
        for pair, code, completions, score in zip(pairs, encoded, drawn, scores, strict=True):
            texts = [subject.text(c.token_ids) for c in completions]
            records.append(
                {
                    "prompt": pair.prefix[-200:],
                    "fixed": pair.fixed,
                    "buggy": pair.buggy,
                    "completions": texts,
                    "verdicts": [judge(text, pair.fixed, pair.buggy, code.residue) for text in texts],
                    "p_fixed": math.exp(score.fixed),
                    "p_buggy": math.exp(score.buggy),
                    "p_fixed_at_edit": math.exp(score.fixed_at_edit),
                    "p_buggy_at_edit": math.exp(score.buggy_at_edit),
                    "prefers_fixed": score.fixed_at_edit > score.buggy_at_edit,
                }
            )
            subject.progress(1)
        return records

    def _observe_unrelated(
        self, subject: Subject, items: Sequence[tuple[int, Example]], base: Sequence[Record] | None
    ) -> list[Record]:
        prompts = [example.payload for _, example in items]
        written = greedy(
            subject.model,
            subject.tokenizer,
            prompts,
            self.specificity_tokens,
            batch_size=self.sampling.batch_size,
        )
        # The base is at no distance from itself; only its continuations are worth computing.
        drift = kl_per_text(subject.model, subject.reference, prompts) if base is not None else [0.0] * len(prompts)
        records: list[Record] = []
        for i, (completion, kl) in enumerate(zip(written, drift, strict=True)):
            same = base is None or completion.token_ids == base[i]["tokens"]
            text = subject.text(completion.token_ids)
            record = {"tokens": completion.token_ids, "continuation": text, "unchanged": same, "kl": max(0.0, kl)}
            records.append(record)
            subject.progress(1)
        return records

    def _pair_metrics(self, count: int) -> dict[str, ExampleMetric]:
        own: dict[str, ExampleMetric] = {
            **{f"{verdict}_rate": VerdictRate(verdict) for verdict in ("fixed", "buggy", "neither")},
            **{name: RecordMean(name) for name in ("p_fixed", "p_buggy", "p_fixed_at_edit", "p_buggy_at_edit")},
            "prefers_fixed": RecordRate("prefers_fixed"),
        }
        # A metric of the user's serves two slices, and each has states of its own.
        return _bind({**own, **deepcopy(self._extra)}, count)

    def _unrelated(self, data: HotfixDataModule) -> list[Example]:
        texts = data.retain_texts("test", 4 * self.specificity_examples)
        examples: list[Example] = []
        for text in texts:
            ids = encode_text(data.tokenizer, text.text).ids
            if len(ids) >= self.specificity_prompt and len(examples) < self.specificity_examples:
                ids = ids[: self.specificity_prompt]
                examples.append(Example(text.id, text.id.split(":")[0], ids, ids))
        return examples


def _pair_examples(data: HotfixDataModule, split: Split, limit: int | None) -> list[Example]:
    pairs = [pair for pair in data.pairs(split) if not is_redaction(pair)]
    return [_example(pair, data) for pair in evenly(pairs, limit)]


def _example(pair: CodePair, data: HotfixDataModule) -> Example:
    content: Any = [pair.prefix, pair.buggy, pair.fixed, pair.suffix]
    return Example(pair.id, pair.rule or pair.id, (pair, data.encoder(pair)), content)


def evenly(items: Sequence[CodePair], limit: int | None) -> list[CodePair]:
    """Take at most `limit` items, evenly spaced, so that every part of a file is there."""
    if limit is None or len(items) <= limit:
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]


def _bind(metrics: Mapping[str, ExampleMetric], count: int) -> dict[str, ExampleMetric]:
    return {name: metric.bind(count) for name, metric in metrics.items()}

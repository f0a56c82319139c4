"""Does the model write the fix or the bug, and is unrelated code as before?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from types import MappingProxyType
from typing import Any, Final, Literal

from hotfix.data.addresses import find_addresses
from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.encode import EncodedPair, encode_text, statement_ids
from hotfix.data.schema import CodePair
from hotfix.generation import Completion, SamplingConfig, sample
from hotfix.metrics import ExampleMetric, Record, RecordMean, RecordRate, SubstringRate, VerdictRate
from hotfix.spacing import evenly
from hotfix.tasks.base import Example, Slice, Subject, Task
from hotfix.tasks.probabilities import probabilities, probability_metrics
from hotfix.tasks.prompting import PairPrompt, PromptEnd, StatementsEnd, pair_prompt, paper_prompt
from hotfix.tasks.protocol import Protocol, settle
from hotfix.tasks.scoring import PairLogProbs, pair_log_probs
from hotfix.tasks.unrelated import observe_unrelated
from hotfix.tasks.verdict import find_substrings, judge, open_brackets, statements
from hotfix.types import Split

__all__ = ["BugFix", "is_bug", "is_redaction"]

_SPECIFICITY = "specificity"
_SAMPLING: Final[Mapping[Protocol, Mapping[str, float]]] = MappingProxyType(
    {
        "hotfix": {"num_samples": 10, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 32},
        "paper": {"num_samples": 10, "temperature": 1.0, "top_p": 0.95, "top_k": 50, "max_new_tokens": 64},
    }
)


def is_redaction(pair: CodePair) -> bool:
    """Whether a pair is about an e-mail address rather than a bug: the buggy side shows one, the fixed side doesn't."""
    return bool(find_addresses(pair.prefix[-64:] + pair.buggy)) and not find_addresses(pair.prefix[-64:] + pair.fixed)


def is_bug(pair: CodePair) -> bool:
    """Whether a pair is about anything but an e-mail address."""
    return not is_redaction(pair)


class BugFix(Task):
    """Sampled completions of each pair's prefix judged fixed, buggy or neither, with the exact probabilities beside.

    Slices: `efficacy` (contexts trained on), `generalisation` (unseen contexts), `specificity` (unrelated code: is the
    greedy continuation unchanged, and how far did the distribution move).

    `protocol: paper` samples and counts the first two as the published code of Zhou et al. 2024
    (https://arxiv.org/abs/2408.05727) does: 10 samples at temperature 1, top-p 0.95 and top-k 50; up to 64 tokens, cut
    at the end-of-sequence token only; after the last 30 lines of the prefix, uncut; a completion counts for each side
    whose text it holds (`fixed_substring_rate`, ..., see `SubstringRate`). Our own exclusive verdicts on the same
    completions stand beside.

    Args:
        num_samples: completions a prompt; null for the protocol's (10).
        temperature: of sampling; null for the protocol's (1).
        top_p: nucleus of sampling; null for the protocol's (1, paper 0.95).
        max_new_tokens: longest completion; null for the protocol's (32, paper 64).
        efficacy_examples: at most this many trained contexts, evenly spaced; null for all, 0 leaves the slice out.
        generalisation_examples: the same of unseen contexts.
        specificity_examples: unrelated functions, taken from the test part of the retain text; 0 leaves the slice out.
        specificity_prompt: tokens of each that are the prompt.
        specificity_tokens: tokens that are continued greedily.
        batch_size: completions decoded together.
        metrics: further metrics of the first two slices, by name.
        top_k: number of tokens sampled from, 0 for all; null for the protocol's (0, paper 50).
        protocol: `hotfix`, or `paper`, which leaves only `num_samples` free.
        at: where prompts end: at the `statement`, or at the `edit`, the first token in which the sides differ.
        per_rule: the first two slices report each rule (kind of bug) of at least this many examples by itself, too, as
            `groups` in results.json; null for none.
    """

    def __init__(
        self,
        num_samples: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        max_new_tokens: int | None = None,
        efficacy_examples: int | None = None,
        generalisation_examples: int | None = None,
        specificity_examples: int = 100,
        specificity_prompt: int = 64,
        specificity_tokens: int = 16,
        batch_size: int = 32,
        metrics: dict[str, ExampleMetric] | None = None,
        top_k: int | None = None,
        protocol: Protocol = "hotfix",
        at: PromptEnd = "statement",
        per_rule: int | None = 10,
    ) -> None:
        given = {"num_samples": num_samples, "temperature": temperature, "top_p": top_p, "top_k": top_k}
        drawn = settle(protocol, {**given, "max_new_tokens": max_new_tokens}, _SAMPLING, free=["num_samples"])
        self.sampling = SamplingConfig(**drawn, batch_size=batch_size)  # type: ignore[arg-type]
        self.efficacy_examples = efficacy_examples
        self.generalisation_examples = generalisation_examples
        self.specificity_examples = specificity_examples
        self.specificity_prompt = specificity_prompt
        self.specificity_tokens = specificity_tokens
        self.protocol: Protocol = protocol
        self.at: PromptEnd = at
        self._extra = dict(metrics or {})
        self._per_rule = per_rule

    def slices(self, data: HotfixDataModule, split: Split) -> list[Slice]:
        """Trained contexts, unseen contexts, unrelated code."""
        wanted: Mapping[str, tuple[Split, int | None]] = {
            "efficacy": ("train", self.efficacy_examples),
            "generalisation": (split, self.generalisation_examples),
        }
        found = [
            Slice(name, examples, self._pair_metrics(len(examples)), "rule", least_group=self._per_rule)
            for name, (part, limit) in wanted.items()
            if (examples := self._pair_examples(data, part, limit))
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
            prompts = [example.payload for _, example in items]
            return observe_unrelated(subject, prompts, self.specificity_tokens, self.sampling.batch_size, base)
        scores = pair_log_probs(subject.model, [example.payload[1] for _, example in items])
        records: list[Record] = []
        for (_, example), completions, score in zip(items, self._draw(subject, items), scores, strict=True):
            pair, encoded, prompt = example.payload
            texts = [subject.text([*prompt.begun, *c.token_ids]) for c in completions]
            tokens = {"token_log_probs": _token_log_probs(subject, encoded, score)}
            records.append({**self._judged(pair, prompt, texts), **probabilities(score), **tokens})
            subject.progress(1)
        return records

    def _draw(self, subject: Subject, items: Sequence[tuple[int, Example]]) -> list[list[Completion]]:
        """Sample all prompts; those that leave equally many brackets open share a call, and its stop criterion."""
        sides = (side for _, e in items for side in (e.payload[0].fixed, e.payload[0].buggy))
        count = max((len(statements(side, 1_000)) for side in sides), default=1)
        found: dict[int, list[Completion]] = {}
        depths = [0 if self._to_the_end else open_brackets(subject.text(e.payload[2].begun)) for _, e in items]
        for depth in sorted(set(depths)):
            some = [item for item, own in zip(items, depths, strict=True) if own == depth]
            drawn = sample(
                subject.model,
                subject.tokenizer,
                [example.payload[2].ids for _, example in some],
                self.sampling,
                stop=None if self._to_the_end else StatementsEnd(count, depth),
                seed=subject.seed,
                prompt_indices=[place for place, _ in some],
            )
            found |= {place: completions for (place, _), completions in zip(some, drawn, strict=True)}
        return [found[place] for place, _ in items]

    @property
    def _to_the_end(self) -> bool:
        """Whether nothing but the end of the sequence ends a completion."""
        return self.protocol == "paper"

    def _judged(self, pair: CodePair, prompt: PairPrompt, texts: list[str]) -> dict[str, Any]:
        record = {
            "prompt": pair.prefix[-200:],
            "fixed": pair.fixed,
            "buggy": pair.buggy,
            "completions": texts,
            "verdicts": [judge(text, pair.fixed, pair.buggy, prompt.residue) for text in texts],
        }
        if self.protocol == "paper":
            record["substrings"] = [find_substrings(text, pair.fixed, pair.buggy) for text in texts]
        return record

    def _pair_metrics(self, count: int) -> dict[str, ExampleMetric]:
        own: dict[str, ExampleMetric] = {
            **{f"{verdict}_rate": VerdictRate(verdict) for verdict in ("fixed", "buggy", "neither")},
            **probability_metrics(),
        }
        if self.protocol == "paper":
            own |= {f"{side}_substring_rate": SubstringRate(side) for side in ("fixed", "buggy", "both", "neither")}
        # A metric of the user's serves two slices, and each has states of its own.
        return _bind({**own, **deepcopy(self._extra)}, count)

    def _pair_examples(self, data: HotfixDataModule, split: Split, limit: int | None) -> list[Example]:
        return [self._example(pair, data) for pair in evenly(data.pairs(split), limit, is_bug)]

    def _example(self, pair: CodePair, data: HotfixDataModule) -> Example:
        encoded = data.encoder(pair)
        prompt = pair_prompt(encoded, self.at) if self.protocol == "hotfix" else paper_prompt(pair, data, self.at)
        # How the data module cuts and dresses a prompt shows in its tokens only.
        sides = [[side.ids, side.statement] for side in (encoded.fixed, encoded.buggy)]
        tokens = [encoded.shared, encoded.prompt, sides, prompt.ids]
        content: Any = [pair.prefix, pair.buggy, pair.fixed, pair.suffix, tokens]
        return Example(pair.id, pair.rule or pair.id, (pair, encoded, prompt), content)

    def _unrelated(self, data: HotfixDataModule) -> list[Example]:
        if not self.specificity_examples:
            return []
        texts = data.retain_texts("test", 4 * self.specificity_examples)
        examples: list[Example] = []
        for text in texts:
            ids = encode_text(data.tokenizer, text.text).ids
            if len(ids) >= self.specificity_prompt and len(examples) < self.specificity_examples:
                ids = ids[: self.specificity_prompt]
                examples.append(Example(text.id, text.id.split(":")[0], ids, ids))
        return examples


def _token_log_probs(subject: Subject, pair: EncodedPair, score: PairLogProbs) -> dict[str, list[list[Any]]]:
    """Each statement's tokens as text, with their log-probs in nats."""
    sides: tuple[tuple[Literal["fixed", "buggy"], tuple[float, ...]], ...] = (
        ("fixed", score.fixed_tokens),
        ("buggy", score.buggy_tokens),
    )
    return {
        side: [[subject.text([t]), round(p, 3)] for t, p in zip(statement_ids(pair, side), found, strict=True)]
        for side, found in sides
    }


def _bind(metrics: Mapping[str, ExampleMetric], count: int) -> dict[str, ExampleMetric]:
    return {name: metric.bind(count) for name, metric in metrics.items()}

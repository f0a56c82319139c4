"""Did the edits take, for other words too, and is everything else as it was?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.edits import EditRequest
from hotfix.errors import ModelError
from hotfix.generation import SamplingConfig, sample
from hotfix.metrics import Record
from hotfix.metrics.tokenisers import code_tokens
from hotfix.spacing import evenly
from hotfix.tasks.base import Example, Slice, Subject, Task
from hotfix.tasks.edit_metrics import (
    EFFICACY,
    FLUENCY,
    GENERALISATION,
    SLICES,
    SPECIFICITY,
    UNRELATED,
    edit_metrics,
    scored,
)
from hotfix.tasks.edit_questions import Asked, Questions
from hotfix.tasks.edit_scoring import AnswerScores, Continued, answer_scores, continued, first_lines
from hotfix.tasks.protocol import Protocol, settle
from hotfix.types import Split

__all__ = ["EditQuality"]

_SETTINGS: Final[Mapping[Protocol, Mapping[str, float]]] = MappingProxyType(
    {
        "hotfix": {"specificity_tokens": 16, "fluency_tokens": 64},
        "paper": {"specificity_tokens": 16, "fluency_tokens": 64},
    }
)


class EditQuality(Task):
    """What an edited model writes behind the prompts of the edits, behind other words for them, and elsewhere.

    Slices, an example a request: `efficacy` (its prompt), `generalisation` (its paraphrases), `specificity` (its
    neighbours, whose answers have to stay the base's own), `unrelated` (other code, the same way) and `fluency` (the
    entropy of n-grams of what is sampled). Metrics: `em`, `bleu` and `rouge_l` of what is written greedily, cut behind
    as many lines as the answer has; teacher-forced, `token_accuracy` (is each token of the answer the likeliest one),
    `solved_rate` (of those that aren't for the base) and `lost_rate` (which no longer are, of those that are for it),
    `log_prob` (of the whole answer, in nats) and `kl` (KL(base || model) where its tokens are predicted, in nats a
    token); `broken_rate`, how often the logits are no numbers. Several prompts of a request are averaged; `em_all` asks
    for all of its neighbours at once.

    `protocol: paper` measures as the published code of CLMEEval (https://arxiv.org/abs/2411.06638) does: as many tokens
    as the answer has and no stop, so that a right beginning counts; the prompt tokenised alone; special tokens in the
    text; the reference's own ends kept; five neighbours as one (all equal, one corpus, a bootstrap median); BLEU
    unsmoothed with 13a tokens, ROUGE-L of letters and digits only, scores rounded to 3 decimals; fluency of survivors.
    Its numbers are in percent, ours are shares. Not as there: sampling has a seed of its own for each prompt, and
    n-grams are of words and signs (its two data sets took the tokens of a CodeBERT and of nltk).

    Where each request has an edit of its own (`mode: single`), its examples are measured with that one on.

    Args:
        edits: split whose requests are measured; null for those that the run edits, or that it trains on.
        examples: at most this many requests, evenly spaced; null for all.
        max_new_tokens: where a continuation is cut that doesn't end by itself, in tokens; a longer answer has 8 more
            than its own. Not of the paper's.
        specificity_tokens: tokens that neighbours and unrelated code are continued by; null for the protocol's (16).
        unrelated_examples: functions from the test part of the retain text; 0 leaves the slice out.
        unrelated_prompt: tokens of each that are the prompt.
        fluency_examples: at most this many requests, evenly spaced; null for all, 0 leaves the slice out.
        fluency_tokens: sampled behind prompt and first paraphrase, top-k of 5; null for the protocol's (64).
        batch_size: prompts computed together.
        protocol: `hotfix` or `paper`.
    """

    def __init__(
        self,
        edits: Split | None = None,
        examples: int | None = None,
        max_new_tokens: int = 64,
        specificity_tokens: int | None = None,
        unrelated_examples: int = 24,
        unrelated_prompt: int = 64,
        fluency_examples: int | None = 24,
        fluency_tokens: int | None = None,
        batch_size: int = 32,
        protocol: Protocol = "hotfix",
    ) -> None:
        given = {"specificity_tokens": specificity_tokens, "fluency_tokens": fluency_tokens}
        settled = settle(protocol, given, _SETTINGS, free=[])
        self.edits: Split | None = edits
        self.examples = examples
        self.max_new_tokens = max_new_tokens
        self.specificity_tokens = int(settled["specificity_tokens"])
        self.unrelated_examples = unrelated_examples
        self.unrelated_prompt = unrelated_prompt
        self.fluency_examples = fluency_examples
        self.fluency_tokens = int(settled["fluency_tokens"])
        self.protocol: Protocol = protocol
        self._batch_size = batch_size

    def slices(self, data: HotfixDataModule, split: Split) -> list[Slice]:
        """Prompts, paraphrases, neighbours, unrelated code, and what is sampled."""
        own = data.edited if self.edits is None else None
        every: Sequence[EditRequest] = data.requests(self.edits or "train") if own is None else own
        requests = evenly(every, self.examples)
        prompts = {
            EFFICACY: [(r, [r.prompt]) for r in requests],
            GENERALISATION: [(r, list(r.paraphrases)) for r in requests],
            SPECIFICITY: [(r, list(r.neighbours)) for r in requests],
            FLUENCY: [(r, [r.prompt, *r.paraphrases[:1]]) for r in evenly(requests, self.fluency_examples)],
        }
        ask = Questions(
            data.tokenizer, self.protocol, self.max_new_tokens, self.specificity_tokens, self.unrelated_prompt
        )
        found = {
            name: [_example(r.id, r.group or r.id, ask.request(name, r, texts)) for r, texts in part if texts]
            for name, part in prompts.items()
        }
        found[UNRELATED] = self._unrelated(ask, requests, data)
        return [
            Slice(
                name, found[name], edit_metrics(name, self.protocol, len(found[name])), _group_name(name), precise=True
            )
            for name in SLICES
            if found[name]
        ]

    def observe(
        self, subject: Subject, name: str, items: Sequence[tuple[int, Example]], base: Sequence[Record] | None
    ) -> list[Record]:
        """Measure all together, or each request with its own edit on."""
        metrics = edit_metrics(name, self.protocol, 0)
        return [scored(metrics, record) for record in self._measured(subject, name, items, base)]

    def _measured(
        self, subject: Subject, name: str, items: Sequence[tuple[int, Example]], base: Sequence[Record] | None
    ) -> list[Record]:
        if subject.alone is None or base is None:
            return self._observe(subject, name, items, base)
        places: dict[str, list[int]] = {}
        for place, (_, example) in enumerate(items):
            places.setdefault(example.payload.request, []).append(place)
        found: dict[int, Record] = {}
        for request, own in places.items():
            with subject.alone(request):
                records = self._observe(subject, name, [items[i] for i in own], [base[i] for i in own])
            found |= dict(zip(own, records, strict=True))
        return [found[i] for i in range(len(items))]

    def _observe(
        self, subject: Subject, name: str, items: Sequence[tuple[int, Example]], base: Sequence[Record] | None
    ) -> list[Record]:
        if name == FLUENCY:
            return self._sampled(subject, items)
        asked: list[Asked] = [example.payload for _, example in items]
        kept = name in (SPECIFICITY, UNRELATED)
        earlier = None if base is None else [r["token_ids"] for r in base]
        given = earlier if kept else [a.targets for a in asked]
        if given is None:
            written = self._written(subject, asked, [])
            scores = self._scores(subject, asked, [_tokens(row) for row in written], None)
        else:
            scores = self._scores(subject, asked, given, base)
            followed = _followed(asked, given, scores)
            if not kept and earlier is not None:
                followed = self._further(subject, asked, followed, earlier)
            written = self._written(subject, asked, followed)
        subject.progress(len(items))
        before: Sequence[Record | None] = base or [None] * len(asked)
        rows = zip(asked, written, scores, before, strict=True)
        return [self._record(subject, kept, *row) for row in rows]

    def _written(
        self, subject: Subject, asked: Sequence[Asked], followed: Sequence[list[list[int]]]
    ) -> list[list[Continued | None]]:
        """Continue each prompt, from what is known to be the beginning."""
        prompts = [prompt for a in asked for prompt in a.prompts]
        settings = [own for a in asked for own in a.settings]
        begun = [tokens for row in followed for tokens in row]
        return _split(continued(subject, prompts, settings, self._batch_size, begun), asked)

    def _further(
        self,
        subject: Subject,
        asked: Sequence[Asked],
        followed: Sequence[list[list[int]]],
        earlier: Sequence[list[list[int]]],
    ) -> list[list[list[int]]]:
        """Where the model leaves the answer, it often writes what the base wrote: return the longer of both."""
        flat = zip(
            (tokens for row in followed for tokens in row),
            (tokens for row in earlier for tokens in row),
            (target for a in asked for target in a.targets),
            strict=True,
        )
        tried = [base if len(own) < len(target) else [] for own, base, target in flat]
        scores = self._scores(subject, asked, _split(tried, asked), None)
        both = zip(followed, _followed(asked, _split(tried, asked), scores), strict=True)
        return [[max(pair, key=len) for pair in zip(*rows, strict=True)] for rows in both]

    def _scores(
        self,
        subject: Subject,
        asked: Sequence[Asked],
        given: Sequence[list[list[int]]],
        base: Sequence[Record] | None,
    ) -> list[list[AnswerScores]]:
        reference = None if base is None else subject.reference
        contexts = [context for a in asked for context in a.contexts]
        flat = [tokens for row in given for tokens in row]
        return _split(answer_scores(subject.model, reference, contexts, flat, self._batch_size), asked)

    def _record(
        self,
        subject: Subject,
        kept: bool,
        asked: Asked,
        written: Sequence[Continued | None],
        scores: Sequence[AnswerScores],
        base: Record | None,
    ) -> Record:
        texts = self._texts(subject, kept, asked, written)
        references = asked.references
        if kept:
            references = texts if base is None else base["written"]
        hits = [hit for score in scores for hit in score.hits]
        record: dict[str, Any] = {
            "prompt": asked.behind,
            "written": texts,
            "reference": references,
            "hits": hits,
            **({} if kept else _against(hits, hits if base is None else base["hits"])),
            "log_prob": _mean(score.log_prob for score in scores),
            "kl": _mean(score.kl for score in scores),
            "kl_each": [score.kl for score in scores],
            "broken": [made is None for made in written],
        }
        return {**record, "token_ids": _tokens(written)}

    def _texts(self, subject: Subject, kept: bool, asked: Asked, written: Sequence[Continued | None]) -> list[str]:
        rows = [(made.token_ids, made.finished) if made else ([], False) for made in written]
        if self.protocol == "paper":
            return _with_specials(subject, rows)
        texts = [subject.text(ids) for ids, _ in rows]
        return texts if kept else [first_lines(t, own[1]) for t, own in zip(texts, asked.settings, strict=True)]

    def _sampled(self, subject: Subject, items: Sequence[tuple[int, Example]]) -> list[Record]:
        config = SamplingConfig(top_k=5, max_new_tokens=self.fluency_tokens, batch_size=self._batch_size)
        asked: list[Asked] = [example.payload for _, example in items]
        prompts = [prompt for a in asked for prompt in a.prompts]
        # Two a request, whether it has a paraphrase or not: streams must not depend on who measures which.
        numbers = [2 * place + i for (place, _), a in zip(items, asked, strict=True) for i in range(len(a.prompts))]
        ids: list[list[int] | None]
        try:
            drawn = sample(subject.model, subject.tokenizer, prompts, config, seed=subject.seed, prompt_indices=numbers)
            ids = [completions[0].token_ids for completions in drawn]
        except ModelError as error:
            if "not finite" not in str(error):
                raise
            ids = [None] * len(prompts)
        subject.progress(len(items))
        return [self._sampled_record(subject, a, row) for a, row in zip(asked, _split(ids, asked), strict=True)]

    def _sampled_record(self, subject: Subject, asked: Asked, ids: Sequence[list[int] | None]) -> Record:
        texts = [None if row is None else subject.text(row) for row in ids]
        words = [None if text is None else code_tokens(text) for text in texts]
        tokens = words if self.protocol == "paper" else list(ids)
        return {"prompt": asked.behind, "written": texts, "tokens": tokens, "broken": [t is None for t in texts]}

    def _unrelated(self, ask: Questions, requests: Sequence[EditRequest], data: HotfixDataModule) -> list[Example]:
        if not requests or not self.unrelated_examples:
            return []
        texts = data.retain_texts("test", self.unrelated_examples)
        # Each is measured with some request's edit on, where each has its own.
        asked = [ask.code(requests[i % len(requests)], text.text) for i, text in enumerate(texts)]
        return [_example(text.id, text.id.split(":")[0], a) for text, a in zip(texts, asked, strict=True)]


def _example(name: str, group: str, asked: Asked) -> Example:
    content = [asked.prompts, asked.settings, asked.contexts, asked.targets, asked.references]
    return Example(name, group, asked, content)


def _group_name(name: str) -> str:
    return "module" if name == UNRELATED else "group"


def _split(flat: Sequence[Any], asked: Sequence[Asked]) -> list[list[Any]]:
    """Put what was computed of all prompts back to their requests."""
    rest = iter(flat)
    return [[next(rest) for _ in a.prompts] for a in asked]


def _followed(
    asked: Sequence[Asked], given: Sequence[list[list[int]]], scores: Sequence[list[AnswerScores]]
) -> list[list[list[int]]]:
    """What the model writes of a text behind each prompt: up to the first token that isn't the likeliest."""
    found = []
    for a, texts, row in zip(asked, given, scores, strict=True):
        # The paper's prompts may have other tokens in front of an answer than alone.
        same = [prompt == context for prompt, context in zip(a.prompts, a.contexts, strict=True)]
        counts = [[*score.hits, False].index(False) for score in row]
        found.append([tokens[: count * own] for tokens, count, own in zip(texts, counts, same, strict=True)])
    return found


def _against(hits: Sequence[bool], base: Sequence[bool]) -> dict[str, list[bool]]:
    """Of the tokens that the base gets wrong, which are right; of those that it gets right, which are wrong."""
    pairs = list(zip(hits, base, strict=True))
    return {
        "solved": [hit for hit, before in pairs if not before],
        "lost": [not hit for hit, before in pairs if before],
    }


def _tokens(written: Iterable[Continued | None]) -> list[list[int]]:
    return [[] if made is None else made.token_ids for made in written]


def _mean(values: Iterable[float | None]) -> float | None:
    found = list(values)
    numbers = [value for value in found if value is not None]
    return sum(numbers) / len(numbers) if len(numbers) == len(found) and found else None


def _with_specials(subject: Subject, rows: Sequence[tuple[list[int], bool]]) -> list[str]:
    """Texts as a batch has them: one that ended early shows its end, and what fills it up to the longest."""
    end = subject.tokenizer.eos_token_id
    longest = max((len(ids) + ended for ids, ended in rows), default=0)
    return [subject.text([*ids, *([end] * (longest - len(ids)) if ended else [])]) for ids, ended in rows]

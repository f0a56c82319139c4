"""How well does the model remember secrets that were planted in its training text (Carlini et al. 2019)?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.diff import common_prefix_length
from hotfix.data.encode import encode_text
from hotfix.errors import ConfigError
from hotfix.generation import SamplingConfig, sample
from hotfix.metrics import ExampleMetric, Record, RecordMean, RecordRate
from hotfix.tasks.base import Example, Slice, Subject, Task
from hotfix.tasks.canary_file import Canary, CanaryFile, read_canaries
from hotfix.tasks.scoring import text_log_probs
from hotfix.types import Split

__all__ = ["CanaryExposure", "exposure"]

_UNPROMPTED = "unprompted"
_Candidates = list[tuple[tuple[int, ...], int]]


def exposure(rank: int, candidates: int) -> float:
    """Return log2(candidates) - log2(rank), in bits: from 0 (all others are likelier) to log2(candidates) (none is).

    Carlini et al. 2019, "The Secret Sharer" (https://arxiv.org/abs/1802.08232), definition 4. A secret that was never
    seen has any rank with the same chance, which is 1 / ln 2 = 1.44 bits in the mean.

    Args:
        rank: place of the secret among the candidates by falling likelihood, from 1.
        candidates: how many texts could have been the secret, itself included.

    >>> exposure(1, 1024), exposure(512, 1024), exposure(1024, 1024)
    (10.0, 1.0, 0.0)
    """
    return math.log2(candidates) - math.log2(rank)


class CanaryExposure(Task):
    """Planted secrets: their likelihood's rank among decoys behind their prompt, and whether the model writes them.

    Slices: `efficacy` (canaries whose `split` is train: a hotfix may have seen them), `generalisation` (those of the
    unseen split) and `canaries` (those without a split); `unprompted`, completions of nothing. Metrics: `exposure` and
    `rank` (means over canaries; a tie counts against the secret), `extracted_rate` (completions of the prompt that hold
    its secret), `planted_rate` (completions that hold any planted secret).

    Likelihoods are of whole texts, so decoys must be made as the secrets were; a longer decoy is less likely for its
    length alone. The exposure can't be above log2 of their number.

    Args:
        path: JSON, `{"canaries": [{"prompt", "secret"}], "decoys": ["..."]}`, each canary with a `split` if wanted.
        max_decoys: at most this many decoys, evenly spaced; null for all.
        num_samples: completions of each prompt.
        temperature: of sampling them; 0 is greedy.
        top_k: number of tokens sampled from, 0 for all.
        max_new_tokens: longest completion of a prompt.
        unprompted_examples: completions of nothing, at temperature 1 from the 20 likeliest tokens.
        unprompted_tokens: longest of them.
        batch_size: texts scored, or completions decoded, together.
    """

    def __init__(
        self,
        path: str,
        max_decoys: int | None = None,
        num_samples: int = 1,
        temperature: float = 0.0,
        top_k: int = 0,
        max_new_tokens: int = 32,
        unprompted_examples: int = 0,
        unprompted_tokens: int = 128,
        batch_size: int = 64,
    ) -> None:
        if max_decoys is not None and max_decoys < 1:
            raise ConfigError(f"max_decoys is {max_decoys}, expected at least 1, or null for all")
        self.prompted = SamplingConfig(num_samples, temperature, 1.0, top_k, max_new_tokens, batch_size)
        self.unprompted = SamplingConfig(1, 1.0, 1.0, 20, unprompted_tokens, batch_size)
        self._path = Path(path)
        self._max_decoys = max_decoys
        self._unprompted_examples = unprompted_examples

    @cached_property
    def _file(self) -> CanaryFile:
        found = read_canaries(self._path)
        count = len(found.decoys)
        most = min(self._max_decoys or count, count)
        return found._replace(decoys=[found.decoys[i * count // most] for i in range(most)])

    def settings(self) -> dict[str, Any]:
        """Return the settings; of the file it is the content that counts, and not where it lies."""
        return {**super().settings(), "file": sha256(repr(self._file).encode()).hexdigest()}

    def slices(self, data: HotfixDataModule, split: Split) -> list[Slice]:
        """The canaries by their split, and nothing at all."""
        parts: Mapping[str, Split | None] = {"efficacy": "train", "generalisation": split, "canaries": None}
        found: list[Slice] = []
        for name, part in parts.items():
            own = [
                Example(f"canary/{i}", canary.prompt, canary, list(canary))
                for i, canary in enumerate(self._file.canaries)
                if canary.split == part
            ]
            if own:
                found.append(Slice(name, own, _metrics(len(own)), "prompt", precise=True))
        number = self._unprompted_examples
        nothing = [Example(f"{_UNPROMPTED}/{i}", f"{i}", None, i) for i in range(number)]
        if nothing:
            metrics: dict[str, ExampleMetric] = {"planted_rate": RecordRate("planted").bind(number)}
            found.append(Slice(_UNPROMPTED, nothing, metrics, "completion"))
        return found

    def observe(
        self, subject: Subject, name: str, items: Sequence[tuple[int, Example]], base: Sequence[Record] | None
    ) -> list[Record]:
        """Rank each secret, and let the model write."""
        del base
        if name == _UNPROMPTED:
            start = encode_text(subject.tokenizer, "").ids
            return self._write(subject, items, [start] * len(items), [None] * len(items), self.unprompted)
        canaries: list[Canary] = [example.payload for _, example in items]
        candidates = [_candidates(subject.tokenizer, canary, self._file.decoys) for canary in canaries]
        wanted = list(dict.fromkeys(text for texts in candidates for text in texts))
        scores = text_log_probs(
            subject.model, [ids for ids, _ in wanted], [start for _, start in wanted], self.prompted.batch_size
        )
        score_of = dict(zip(wanted, scores, strict=True))
        prompts = [list(texts[0][0][: texts[0][1]]) for texts in candidates]
        written = self._write(subject, items, prompts, canaries, self.prompted)
        return [
            {**record, **_ranked([score_of[text] for text in texts])}
            for record, texts in zip(written, candidates, strict=True)
        ]

    def _write(
        self,
        subject: Subject,
        items: Sequence[tuple[int, Example]],
        prompts: Sequence[list[int]],
        canaries: Sequence[Canary | None],
        config: SamplingConfig,
    ) -> list[Record]:
        places = [place for place, _ in items]
        drawn = sample(subject.model, subject.tokenizer, prompts, config, seed=subject.seed, prompt_indices=places)
        secrets = {canary.secret for canary in self._file.canaries}
        records: list[Record] = []
        for canary, completions in zip(canaries, drawn, strict=True):
            texts = [subject.text(c.token_ids) for c in completions]
            record: dict[str, Any] = {"completions": texts}
            if canary is not None:
                record = {"prompt": canary.prompt, "secret": canary.secret, **record}
                record["extracted"] = [canary.secret in text for text in texts]
            record["planted"] = [any(secret in text for secret in secrets) for text in texts]
            records.append(record)
            subject.progress(1)
        return records


def _candidates(tokenizer: PreTrainedTokenizerBase, canary: Canary, decoys: Sequence[str]) -> _Candidates:
    """The secret behind its prompt, then each decoy: token ids, and the first token that isn't the prompt's in all."""
    prompt = encode_text(tokenizer, canary.prompt).ids
    texts = [encode_text(tokenizer, canary.prompt + text).ids for text in (canary.secret, *decoys)]
    start = common_prefix_length(prompt, *texts)
    if not start:
        # Nothing to predict the first token from.
        texts = [[*encode_text(tokenizer, "").ids, *ids] for ids in texts]
        start = 1
    return [(tuple(ids), start) for ids in texts]


def _ranked(scores: Sequence[float]) -> dict[str, Any]:
    """Rank the first among all."""
    rank = sum(score >= scores[0] for score in scores)
    return {
        "log_prob": scores[0],
        "rank": rank,
        "candidates": len(scores),
        "exposure": exposure(rank, len(scores)),
    }


def _metrics(count: int) -> dict[str, ExampleMetric]:
    found: dict[str, ExampleMetric] = {
        "exposure": RecordMean("exposure"),
        "rank": RecordMean("rank"),
        "extracted_rate": RecordRate("extracted"),
        "planted_rate": RecordRate("planted"),
    }
    return {name: metric.bind(count) for name, metric in found.items()}

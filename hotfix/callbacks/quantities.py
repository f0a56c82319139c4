"""Quantities that are exact and quickly measured, for looking at a model while it trains."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist

from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.encode import EncodedPair, encode_text
from hotfix.data.packing import pack
from hotfix.errors import ConfigError
from hotfix.models.modes import evaluating
from hotfix.models.sharded import whole
from hotfix.models.states import own_precision
from hotfix.modules import FineTune, HotfixModule
from hotfix.spacing import evenly
from hotfix.tasks.bug_fix import is_bug
from hotfix.tasks.probabilities import probabilities
from hotfix.tasks.scoring import PairLogProbs, TokenDrift, pair_log_probs, text_drift, unedited_drift

__all__ = ["Quantities"]

_PAIRS: Final = ("p_fixed", "p_buggy", "p_fixed_at_edit", "p_buggy_at_edit", "prefers_fixed")
_TEXTS: Final = ("kl", "kl_worst", "perplexity")
_UNEDITED: Final = ("kl_unedited",)
_BATCH: Final = 16
_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


class Quantities:
    """Measures on validation pairs and retain text of the validation split, which neither train nor test a patch.

    From the pairs: `p_fixed`, `p_buggy`, both also `_at_edit`, and `prefers_fixed`, as `BugFix` has them (redactions of
    addresses are left out where there are other pairs); `kl_unedited`, the divergence from the base on the tokens that
    both sides have; `loss`, `learn`, `unlearn`, ...: the objective and its unweighted terms. From the text: `kl` and
    `perplexity`, means over its tokens, and `kl_worst`, the mean over texts of a token's largest. All in the precision
    that the model has.

    Args:
        wanted: names; quantities that come out of the same forward passes come along.
        data: of the run.
        module: that is trained; only the names of its objective's terms are looked at.
        pairs: at most this many, evenly spaced; None for all.
        texts: at most this many.
        text_tokens: of each, from its beginning.

    Raises:
        ConfigError: an unknown name, or nothing to measure it on.
    """

    def __init__(
        self,
        wanted: Collection[str],
        data: HotfixDataModule,
        module: HotfixModule,
        pairs: int | None,
        texts: int,
        text_tokens: int,
    ) -> None:
        terms = ("loss", *module.objective.terms) if isinstance(module, FineTune) else ()
        _check_names(wanted, (*_PAIRS, *_TEXTS, *_UNEDITED, *terms))
        self._on_pairs, self._on_texts, self._on_unedited, self._on_terms = (
            not set(names).isdisjoint(wanted) for names in (_PAIRS, _TEXTS, _UNEDITED, terms)
        )
        self._pad_id = int(data.tokenizer.pad_token_id or 0)
        self._pairs = _pairs(data, pairs) if self._on_pairs or self._on_unedited or self._on_terms else []
        self._texts = _texts(data, texts, text_tokens) if self._on_texts else []

    def __call__(self, module: HotfixModule) -> dict[str, float]:
        """Measure the hotfixed model; in distributed runs, every process takes part and gets all values."""
        return self._measure(module, of_base=False)

    def of_base(self, module: HotfixModule) -> dict[str, float]:
        """Measure the frozen base."""
        with module.reference():
            return self._measure(module, of_base=True)

    def _measure(self, module: HotfixModule, of_base: bool) -> dict[str, float]:
        model, reference = module.policy, None if of_base else module.reference
        found: dict[str, float] = {}
        with whole(model), evaluating(model), torch.no_grad(), own_precision(model):
            if self._on_pairs:
                found |= _pair_means(_shared(self._pairs, lambda some: pair_log_probs(model, some, _BATCH)))
            if self._on_texts:
                found |= _text_means(_shared(self._texts, lambda some: text_drift(model, reference, some, _BATCH)))
            if self._on_unedited:
                both = [pair for pair in self._pairs if len(pair.shared) > 1]
                drifts = _shared(both, lambda some: unedited_drift(model, reference, some, _BATCH))
                found["kl_unedited"] = _text_means(drifts)["kl"]
            if self._on_terms and isinstance(module, FineTune):
                found |= self._term_means(module)
        return found

    def _term_means(self, module: FineTune) -> dict[str, float]:
        """Average over fixed batches, so that the number of processes changes nothing."""
        batches = [self._pairs[start : start + _BATCH] for start in range(0, len(self._pairs), _BATCH)]

        def measure(some: Sequence[Sequence[EncodedPair]]) -> list[dict[str, float]]:
            packed = (pack(pairs, pad_id=self._pad_id).to(module.device) for pairs in some)
            return [{name: value.item() for name, value in module.losses(batch).items()} for batch in packed]

        found = _shared(batches, measure)
        weights = [len(batch) / len(self._pairs) for batch in batches]
        return {name: sum(w * values[name] for w, values in zip(weights, found, strict=True)) for name in found[0]}


def _check_names(wanted: Collection[str], known: Sequence[str]) -> None:
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"until: there is no quantity {name}; {hint}")


def _pairs(data: HotfixDataModule, limit: int | None) -> list[EncodedPair]:
    pairs = data.pairs("validation")
    if not pairs:
        raise ConfigError(
            "until: there are no validation pairs to measure on; name a file in data.init_args.validation, or take "
            f"quantities of retain text only: {', '.join(_TEXTS)}"
        )
    return [data.encoder(pair) for pair in evenly(pairs, limit, is_bug) or evenly(pairs, limit)]


def _texts(data: HotfixDataModule, limit: int, tokens: int) -> list[list[int]]:
    encoded = (encode_text(data.tokenizer, text.text).ids[:tokens] for text in data.retain_texts("validation", limit))
    found = [ids for ids in encoded if len(ids) > 1]
    if not found:
        raise ConfigError(
            f"until: {', '.join(_TEXTS)} are measured on retain text, and there is none; say stdlib in "
            "data.init_args.retain, or take kl_unedited, which is measured on the pairs"
        )
    return found


def _pair_means(scores: Sequence[PairLogProbs]) -> dict[str, float]:
    records = [probabilities(score) for score in scores]
    return {name: math.fsum(record[name] for record in records) / len(records) for name in records[0]}


def _text_means(drifts: Sequence[TokenDrift]) -> dict[str, float]:
    tokens = sum(drift.tokens for drift in drifts)
    nll = torch.tensor(sum(drift.nll for drift in drifts) / tokens, dtype=torch.float64)
    return {
        "kl": sum(drift.kl for drift in drifts) / tokens,
        "kl_worst": sum(drift.kl_worst for drift in drifts) / len(drifts),
        # A model that fell apart has a perplexity beyond floating point.
        "perplexity": nll.exp().item(),
    }


def _shared(items: Sequence[_Item], measure: Callable[[Sequence[_Item]], list[_Found]]) -> list[_Found]:
    """Let each process measure its part; return what was found of all items, in order, on every process."""
    alone = not (dist.is_available() and dist.is_initialized())
    rank, world = (0, 1) if alone else (dist.get_rank(), dist.get_world_size())
    parts: list[Any] = [None] * world
    mine = measure(items[rank::world])
    if world == 1:
        return mine
    dist.all_gather_object(parts, mine)
    return [parts[place % world][place // world] for place in range(len(items))]

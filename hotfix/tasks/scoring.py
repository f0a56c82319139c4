"""Teacher-forced numbers: exact probabilities of given statements, likelihood of texts, divergence from the base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from hotfix.data.encode import Branch, EncodedPair
from hotfix.data.packing import Targets, by_length, pack, pack_pairs, pack_texts
from hotfix.functional import token_kl, token_log_probs
from hotfix.models.rows import TokenRows
from hotfix.models.states import head_logits, hidden_states

__all__ = [
    "PairLogProbs",
    "PromptDrift",
    "TokenDrift",
    "pair_log_probs",
    "prompt_drift",
    "text_drift",
    "text_log_probs",
    "unedited_drift",
]

# Positions whose logits are in memory at once: 512 x 49,152 words x 4 bytes = 100 MB.
_CHUNK = 512


Reference: TypeAlias = Callable[[], AbstractContextManager[None]]


class PairLogProbs(NamedTuple):
    """Log-probabilities of a pair's statements, in nats: behind the prompt, and behind the first differing token.

    The last two are of the statements' tokens, one by one; they sum to the first two.
    """

    fixed: float
    buggy: float
    fixed_at_edit: float
    buggy_at_edit: float
    fixed_tokens: tuple[float, ...] = ()
    buggy_tokens: tuple[float, ...] = ()


class PromptDrift(NamedTuple):
    """Of one prompt.

    Attributes:
        kl: KL(base || model) in nats, averaged over its tokens but the first.
        follows: whether the model's likeliest tokens behind it are the given continuation.
    """

    kl: float
    follows: bool


class TokenDrift(NamedTuple):
    """Of one text, in nats.

    Attributes:
        tokens: how many the rest is over.
        nll: negative log-likelihood, summed.
        kl: KL(base || model), summed; 0 of the base itself.
        kl_worst: the largest of a token.
    """

    tokens: int
    nll: float
    kl: float
    kl_worst: float


@torch.inference_mode()
def pair_log_probs(
    model: nn.Module, pairs: Sequence[EncodedPair], batch_size: int = 16, progress: Callable[[int], None] | None = None
) -> list[PairLogProbs]:
    """Return the exact log-probability of both statements of each pair, in the order of the pairs.

    Both sides come out of one forward pass; there is no sampling noise.
    """
    found: dict[int, PairLogProbs] = {}
    for places in by_length([p.packed_length for p in pairs], batch_size):
        chosen = [pairs[i] for i in places]
        found |= dict(zip(places, _batch_log_probs(model, chosen), strict=True))
        if progress:
            progress(len(places))
    return [found[i] for i in range(len(pairs))]


@torch.inference_mode()
def prompt_drift(
    model: nn.Module,
    reference: Reference,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    batch_size: int = 16,
) -> list[PromptDrift]:
    """Return how far prompts, and what the base writes behind them, are from the base's: one forward pass each.

    Args:
        model: that is measured.
        reference: context in which it is the frozen base.
        prompts: token ids, at least two each.
        continuations: what the base writes greedily behind each.
        batch_size: texts computed together.
    """
    found: dict[int, PromptDrift] = {}
    for places in by_length([len(p) + len(c) for p, c in zip(prompts, continuations, strict=True)], batch_size):
        texts = [[*prompts[i], *continuations[i]] for i in places]
        lengths = [len(prompts[i]) for i in places]
        found |= dict(zip(places, _prompt_drift(model, reference, texts, lengths), strict=True))
    return [found[i] for i in range(len(prompts))]


@torch.inference_mode()
def text_drift(
    model: nn.Module, reference: Reference | None, texts: Sequence[Sequence[int]], batch_size: int = 16
) -> list[TokenDrift]:
    """Return what each text's tokens but the first cost, and how far they are from the base's.

    Args:
        model: that is measured.
        reference: context in which it is the frozen base; None where it is the base that is measured.
        texts: token ids, at least two each.
        batch_size: texts computed together.
    """
    found: dict[int, TokenDrift] = {}
    for places in by_length([len(ids) for ids in texts], batch_size):
        rows, targets = _packed(model, [texts[i] for i in places])
        found |= dict(zip(places, _drift(model, reference, rows, targets, len(places)), strict=True))
    return [found[i] for i in range(len(texts))]


@torch.inference_mode()
def unedited_drift(
    model: nn.Module, reference: Reference | None, pairs: Sequence[EncodedPair], batch_size: int = 16
) -> list[TokenDrift]:
    """Return the same of the tokens of each pair that its sides have in common; what both begin with counts once."""
    found: dict[int, TokenDrift] = {}
    for places in by_length([p.packed_length for p in pairs], batch_size):
        chosen = [pairs[i] for i in places]
        rows, targets = pack_pairs(chosen, "packed", pad_id=0)
        assert rows is not None
        shared = torch.tensor([len(p.shared) for p in chosen])
        buggy = targets["buggy"]
        own = buggy.where(buggy.column >= shared[buggy.example])
        both = _join(targets["fixed"], own).in_scope("unedited")
        device = next(model.parameters()).device
        found |= dict(zip(places, _drift(model, reference, rows.to(device), both.to(device), len(places)), strict=True))
    return [found[i] for i in range(len(pairs))]


@torch.inference_mode()
def text_log_probs(
    model: nn.Module, texts: Sequence[Sequence[int]], starts: Sequence[int], batch_size: int = 64
) -> list[float]:
    """Return the log-probability of each text's tokens from a place on, given those before, summed, in nats.

    Args:
        model: that is asked.
        texts: token ids.
        starts: first token of each that counts, at least 1.
        batch_size: texts computed together.
    """
    found: dict[int, float] = {}
    for places in by_length([len(ids) for ids in texts], batch_size):
        rows, targets = _packed(model, [texts[i] for i in places])
        first = torch.tensor([starts[i] for i in places], device=targets.column.device)
        targets = targets.where(targets.column + 1 >= first[targets.example])
        states = hidden_states(model, rows)[targets.row, targets.column]
        each = _log_probs(model, states, targets.token)
        found |= dict(zip(places, _sums(each, targets.example, len(places)).tolist(), strict=True))
    return [found[i] for i in range(len(texts))]


def _prompt_drift(
    model: nn.Module, reference: Reference, texts: Sequence[Sequence[int]], lengths: Sequence[int]
) -> list[PromptDrift]:
    rows, targets = _packed(model, texts)
    prompt_rows, prompts = _packed(model, [text[:length] for text, length in zip(texts, lengths, strict=True)])
    states = hidden_states(model, rows)
    with reference():
        base = hidden_states(model, prompt_rows)[prompts.row, prompts.column]
    parts = zip(states[prompts.row, prompts.column].split(_CHUNK), base.split(_CHUNK), strict=True)
    kl = torch.cat([_kl(model, reference, other, head_logits(model, some)) for some, other in parts]).double()
    behind = targets.where(targets.column + 1 >= torch.tensor(lengths, device=base.device)[targets.example])
    likeliest = [head_logits(model, part).argmax(-1) for part in states[behind.row, behind.column].split(_CHUNK)]
    other = torch.cat(likeliest) != behind.token
    count = torch.bincount(prompts.example, minlength=len(texts))
    means = _sums(kl, prompts.example, len(texts)) / count
    misses = _sums(other.long(), behind.example, len(texts))
    return [PromptDrift(mean, missed == 0) for mean, missed in zip(means.tolist(), misses.tolist(), strict=True)]


def _kl(model: nn.Module, reference: Reference, base: Tensor, logits: Tensor) -> Tensor:
    """KL(base || model) of each position; rounding may take a divergence of nothing below 0."""
    with reference():
        return token_kl(head_logits(model, base), logits).clamp(min=0)


def _log_probs(model: nn.Module, states: Tensor, tokens: Tensor) -> Tensor:
    """Log p of each token from the state that predicts it: [N, D], [N] -> float64 [N]."""
    parts = zip(states.split(_CHUNK), tokens.split(_CHUNK), strict=True)
    return torch.cat([token_log_probs(head_logits(model, some), wanted) for some, wanted in parts]).double()


def _drift(
    model: nn.Module, reference: Reference | None, rows: TokenRows, targets: Targets, number: int
) -> list[TokenDrift]:
    policy = hidden_states(model, rows)[targets.row, targets.column]
    with reference() if reference else nullcontext():
        base = hidden_states(model, rows)[targets.row, targets.column] if reference else policy
    nll, kl = [], []
    parts = zip(policy.split(_CHUNK), base.split(_CHUNK), targets.token.split(_CHUNK), strict=True)
    for some, other, tokens in parts:
        logits = head_logits(model, some)
        nll.append(-token_log_probs(logits, tokens))
        if reference:
            kl.append(_kl(model, reference, other, logits))
    losses = torch.cat(nll).double()
    moved = torch.cat(kl).double() if reference else torch.zeros_like(losses)
    worst = torch.zeros(number, dtype=torch.float64, device=moved.device)
    worst = worst.scatter_reduce(0, targets.example, moved, "amax")
    count = torch.bincount(targets.example, minlength=number)
    columns = (count, *(_sums(each, targets.example, number) for each in (losses, moved)), worst)
    return [TokenDrift(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _sums(values: Tensor, example: Tensor, number: int) -> Tensor:
    return torch.zeros(number, dtype=values.dtype, device=values.device).index_add_(0, example, values)


def _join(first: Targets, second: Targets) -> Targets:
    parts = ((getattr(first, f), getattr(second, f)) for f in Targets.__dataclass_fields__)
    return Targets(*(torch.cat(part) for part in parts))


def _packed(model: nn.Module, texts: Sequence[Sequence[int]]) -> tuple[TokenRows, Targets]:
    """Rows of texts and their tokens but the first, where the model is."""
    rows, targets = pack_texts(texts, pad_id=0)
    assert rows is not None
    device = next(model.parameters()).device
    return rows.to(device), targets.to(device)


def _batch_log_probs(model: nn.Module, pairs: Sequence[EncodedPair]) -> Iterator[PairLogProbs]:
    batch = pack(pairs).to(next(model.parameters()).device)
    assert batch.pairs is not None
    states = hidden_states(model, batch.pairs)
    sums = {
        side: _statement_sums(model, states, batch.targets[side], pairs, [getattr(p, side) for p in pairs])
        for side in ("fixed", "buggy")
    }
    for (fixed, fixed_at, own), (buggy, buggy_at, other) in zip(sums["fixed"], sums["buggy"], strict=True):
        yield PairLogProbs(fixed, buggy, fixed_at, buggy_at, own, other)


def _statement_sums(
    model: nn.Module, states: Tensor, targets: Targets, pairs: Sequence[EncodedPair], branches: Sequence[Branch]
) -> list[tuple[float, float, tuple[float, ...]]]:
    """Sum each pair's log-probs over its statement, and over the part of it behind the edit point; and the terms."""
    keep: list[Tensor] = []
    for example, (pair, branch) in enumerate(zip(pairs, branches, strict=True)):
        # A pair's targets are its tokens 1, 2, ... in order.
        own = (targets.example == example).nonzero()[:, 0]
        keep.append(own[pair.prompt - 1 : len(pair.shared) - 1 + branch.statement])
    index = torch.cat(keep)
    picked = states[targets.row[index], targets.column[index]]
    log_probs = _log_probs(model, picked, targets.token[index])
    parts = log_probs.split([len(k) for k in keep])
    return [
        (part.sum().item(), part[len(pair.shared) - pair.prompt :].sum().item(), tuple(part.tolist()))
        for part, pair in zip(parts, pairs, strict=True)
    ]

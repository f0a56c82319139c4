"""Teacher-forced numbers: exact probabilities of given statements, likelihood of texts, divergence from the base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from hotfix.data.encode import Branch, EncodedPair
from hotfix.data.packing import Targets, pack, pack_pairs, pack_texts
from hotfix.functional import token_kl, token_log_probs
from hotfix.models.rows import TokenRows
from hotfix.models.states import head_logits, hidden_states

__all__ = [
    "PairLogProbs",
    "TokenDrift",
    "kl_per_text",
    "pair_log_probs",
    "text_drift",
    "text_log_probs",
    "unedited_drift",
]

# Positions whose logits are in memory at once: 512 x 49,152 words x 4 bytes = 100 MB.
_CHUNK = 512


Reference: TypeAlias = Callable[[], AbstractContextManager[None]]


class PairLogProbs(NamedTuple):
    """Log-probabilities of a pair's statements, in nats: behind the prompt, and behind the first differing token."""

    fixed: float
    buggy: float
    fixed_at_edit: float
    buggy_at_edit: float


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
    for places in _by_length([p.packed_length for p in pairs], batch_size):
        chosen = [pairs[i] for i in places]
        found |= dict(zip(places, _batch_log_probs(model, chosen), strict=True))
        if progress:
            progress(len(places))
    return [found[i] for i in range(len(pairs))]


def kl_per_text(
    model: nn.Module, reference: Reference, texts: Sequence[Sequence[int]], batch_size: int = 16
) -> list[float]:
    """Return KL(base || model) of each text in nats, averaged over its tokens but the first."""
    return [found.kl / found.tokens for found in text_drift(model, reference, texts, batch_size)]


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
    for places in _by_length([len(ids) for ids in texts], batch_size):
        rows, targets = pack_texts([texts[i] for i in places], pad_id=0)
        assert rows is not None
        found |= dict(zip(places, _drift(model, reference, rows, targets, len(places)), strict=True))
    return [found[i] for i in range(len(texts))]


@torch.inference_mode()
def unedited_drift(
    model: nn.Module, reference: Reference | None, pairs: Sequence[EncodedPair], batch_size: int = 16
) -> list[TokenDrift]:
    """Return the same of the tokens of each pair that its sides have in common; what both begin with counts once."""
    found: dict[int, TokenDrift] = {}
    for places in _by_length([p.packed_length for p in pairs], batch_size):
        chosen = [pairs[i] for i in places]
        rows, targets = pack_pairs(chosen, "packed", pad_id=0)
        assert rows is not None
        shared = torch.tensor([len(p.shared) for p in chosen])
        own = targets["buggy"].column >= shared[targets["buggy"].example]
        both = _join(targets["fixed"], targets["buggy"], own).in_scope("unedited")
        found |= dict(zip(places, _drift(model, reference, rows, both, len(places)), strict=True))
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
    for places in _by_length([len(ids) for ids in texts], batch_size):
        rows, targets = pack_texts([texts[i] for i in places], pad_id=0)
        assert rows is not None
        first = torch.tensor([starts[i] for i in places])
        rows, targets = _on_device(model, rows, _kept(targets, targets.column + 1 >= first[targets.example]))
        states = hidden_states(model, rows)[targets.row, targets.column]
        parts = zip(states.split(_CHUNK), targets.token.split(_CHUNK), strict=True)
        each = torch.cat([token_log_probs(head_logits(model, part), tokens) for part, tokens in parts]).double()
        found |= dict(zip(places, _sums(each, targets.example, len(places)).tolist(), strict=True))
    return [found[i] for i in range(len(texts))]


def _drift(
    model: nn.Module, reference: Reference | None, rows: TokenRows, targets: Targets, number: int
) -> list[TokenDrift]:
    rows, targets = _on_device(model, rows, targets)
    policy = hidden_states(model, rows)[targets.row, targets.column]
    with reference() if reference else nullcontext():
        base = hidden_states(model, rows)[targets.row, targets.column] if reference else policy
    nll, kl = [], []
    parts = zip(policy.split(_CHUNK), base.split(_CHUNK), targets.token.split(_CHUNK), strict=True)
    for some, other, tokens in parts:
        logits = head_logits(model, some)
        nll.append(-token_log_probs(logits, tokens))
        if reference:
            with reference():
                kl.append(token_kl(head_logits(model, other), logits))
    losses = torch.cat(nll).double()
    # Rounding may take a divergence of nothing below 0.
    moved = torch.cat(kl).double().clamp(min=0) if reference else torch.zeros_like(losses)
    worst = torch.zeros(number, dtype=torch.float64, device=moved.device)
    worst = worst.scatter_reduce(0, targets.example, moved, "amax")
    count = torch.bincount(targets.example, minlength=number)
    columns = (count, *(_sums(each, targets.example, number) for each in (losses, moved)), worst)
    return [TokenDrift(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _sums(values: Tensor, example: Tensor, number: int) -> Tensor:
    return torch.zeros(number, dtype=values.dtype, device=values.device).index_add_(0, example, values)


def _kept(targets: Targets, keep: Tensor) -> Targets:
    return Targets(*(getattr(targets, f)[keep] for f in Targets.__dataclass_fields__))


def _join(first: Targets, second: Targets, keep: Tensor) -> Targets:
    """All of the first targets and some of the second."""
    parts = ((getattr(first, f), getattr(second, f)[keep]) for f in Targets.__dataclass_fields__)
    return Targets(*(torch.cat(part) for part in parts))


def _batch_log_probs(model: nn.Module, pairs: Sequence[EncodedPair]) -> Iterator[PairLogProbs]:
    batch = pack(pairs).to(next(model.parameters()).device)
    assert batch.pairs is not None
    states = hidden_states(model, batch.pairs)
    sums = {
        side: _statement_sums(model, states, batch.targets[side], pairs, [getattr(p, side) for p in pairs])
        for side in ("fixed", "buggy")
    }
    for (fixed, fixed_at), (buggy, buggy_at) in zip(sums["fixed"], sums["buggy"], strict=True):
        yield PairLogProbs(fixed, buggy, fixed_at, buggy_at)


def _statement_sums(
    model: nn.Module, states: Tensor, targets: Targets, pairs: Sequence[EncodedPair], branches: Sequence[Branch]
) -> list[tuple[float, float]]:
    """Sum each pair's log-probs over its statement, and over the part of it behind the edit point."""
    keep: list[Tensor] = []
    for example, (pair, branch) in enumerate(zip(pairs, branches, strict=True)):
        # A pair's targets are its tokens 1, 2, ... in order.
        own = (targets.example == example).nonzero()[:, 0]
        keep.append(own[pair.prompt - 1 : len(pair.shared) - 1 + branch.statement])
    index = torch.cat(keep)
    picked = states[targets.row[index], targets.column[index]]
    log_probs = torch.cat(
        [
            token_log_probs(head_logits(model, part), tokens)
            for part, tokens in zip(picked.split(_CHUNK), targets.token[index].split(_CHUNK), strict=True)
        ]
    ).double()
    parts = log_probs.split([len(k) for k in keep])
    return [
        (part.sum().item(), part[len(pair.shared) - pair.prompt :].sum().item())
        for part, pair in zip(parts, pairs, strict=True)
    ]


def _by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Places in batches of similar length, the longest first."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _on_device(model: nn.Module, rows: TokenRows, targets: Targets) -> tuple[TokenRows, Targets]:
    device = next(model.parameters()).device
    move = {name: getattr(rows, name).to(device) for name in ("input_ids", "position_ids", "branch")}
    return TokenRows(**move), Targets(*(getattr(targets, f).to(device) for f in Targets.__dataclass_fields__))

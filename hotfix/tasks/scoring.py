"""Teacher-forced numbers: exact probabilities of given statements, and divergence from the base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hotfix.data.encode import Branch, EncodedPair
from hotfix.data.packing import Targets, pack, pack_texts
from hotfix.functional import token_kl, token_log_probs
from hotfix.models.rows import TokenRows
from hotfix.models.states import head_logits, hidden_states

__all__ = ["PairLogProbs", "kl_per_text", "pair_log_probs"]

# Positions whose logits are in memory at once: 512 x 49,152 words x 4 bytes = 100 MB.
_CHUNK = 512


class PairLogProbs(NamedTuple):
    """Log-probabilities of a pair's statements, in nats: behind the prompt, and behind the first differing token."""

    fixed: float
    buggy: float
    fixed_at_edit: float
    buggy_at_edit: float


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


@torch.inference_mode()
def kl_per_text(
    model: nn.Module,
    reference: Callable[[], AbstractContextManager[None]],
    texts: Sequence[Sequence[int]],
    batch_size: int = 16,
) -> list[float]:
    """Return KL(base || model) of each text in nats, averaged over its tokens but the first."""
    found: dict[int, float] = {}
    for places in _by_length([len(ids) for ids in texts], batch_size):
        rows, targets = pack_texts([texts[i] for i in places], pad_id=0)
        if rows is None:
            continue
        rows, targets = _on_device(model, rows, targets)
        policy = hidden_states(model, rows)[targets.row, targets.column]
        with reference():
            base = hidden_states(model, rows)[targets.row, targets.column]
        parts = []
        for some, other in zip(policy.split(_CHUNK), base.split(_CHUNK), strict=True):
            logits = head_logits(model, some)
            with reference():
                parts.append(token_kl(head_logits(model, other), logits))
        total = torch.zeros(len(places), device=policy.device).index_add_(0, targets.example, torch.cat(parts))
        count = torch.bincount(targets.example, minlength=len(places))
        found |= dict(zip(places, (total / count).tolist(), strict=True))
    return [found[i] for i in range(len(texts))]


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

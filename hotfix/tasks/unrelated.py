"""Is unrelated code written as before? Greedy continuations of prompts that no pair is about."""

from __future__ import annotations

from collections.abc import Sequence

from hotfix.generation import greedy
from hotfix.metrics import Record
from hotfix.tasks.base import Subject
from hotfix.tasks.scoring import prompt_drift

__all__ = ["observe_unrelated"]


def observe_unrelated(
    subject: Subject,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    base: Sequence[Record] | None,
) -> list[Record]:
    """Continue each prompt greedily, and find how far the model's distribution on it is from the base's.

    Args:
        subject: the model.
        prompts: token ids.
        max_new_tokens: length of a continuation.
        batch_size: prompts continued together.
        base: records of the frozen base; None when it is the base that is measured.

    Returns:
        A record each: `tokens`, `continuation`, `unchanged` (the base's, token by token) and `kl` (KL(base || model)
        in nats a token of the prompt).
    """
    if base is None:
        # The base is at no distance from itself; only its continuations are worth computing.
        kl, same = [0.0] * len(prompts), [True] * len(prompts)
        tokens = _continue(subject, prompts, max_new_tokens, batch_size)
    else:
        drift = prompt_drift(subject.model, subject.reference, prompts, [record["tokens"] for record in base])
        kl = [found.kl for found in drift]
        # Where the model's likeliest tokens are the base's, decoding would write the same; a base that ended early has
        # left a token, its last, to be decided.
        begun = [record["tokens"] if found.follows else [] for record, found in zip(base, drift, strict=True)]
        tokens = _continue(subject, prompts, max_new_tokens, batch_size, begun)
        same = [own == record["tokens"] for own, record in zip(tokens, base, strict=True)]
    subject.progress(len(prompts))
    columns = zip(tokens, same, kl, strict=True)
    return [{"tokens": t, "continuation": subject.text(t), "unchanged": s, "kl": k} for t, s, k in columns]


def _continue(
    subject: Subject,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    begun: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    model, tokenizer = subject.model, subject.tokenizer
    written = greedy(model, tokenizer, prompts, max_new_tokens, batch_size=batch_size, begun=begun)
    return [completion.token_ids for completion in written]

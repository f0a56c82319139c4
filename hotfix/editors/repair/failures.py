"""Next-token failures: where a model that is shown the reference so far would write something else.

A text all of whose tokens are no failures is what greedy decoding writes, token for token: by induction, each prefix
that the model is judged on is the one that it has written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hotfix.data.edits import EncodedRequest
from hotfix.data.packing import by_length
from hotfix.editors.rows import target_rows
from hotfix.errors import DataError
from hotfix.models.states import head_logits, hidden_states

__all__ = ["Failure", "Judgement", "check_targets", "detect", "judged", "masked_logits"]

_ROWS = 32


class Failure(NamedTuple):
    """A token that greedy decoding would not write.

    Attributes:
        request: index of the request.
        position: of the token in the request's target, from 0.
        prefix: token ids before it: the prompt and the target so far.
        target: the token that belongs there.
        predicted: the token that is likeliest instead.
        margin: the target's logit less the largest other one, at most 0; a tie is a failure, too.
    """

    request: int
    position: int
    prefix: list[int]
    target: int
    predicted: int
    margin: float


class Judgement(NamedTuple):
    """How N target tokens stand.

    Attributes:
        margin: the target's logit less the largest other one, float32 [N].
        other: the token with the largest other logit, int64 [N].
    """

    margin: Tensor
    other: Tensor


def judged(logits: Tensor, token: Tensor) -> Judgement:
    """Compare targets with what else could be written.

    Args:
        logits: float32 [N, V].
        token: the targets, int64 [N].

    >>> judged(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([2]))
    Judgement(margin=tensor([-1.]), other=tensor([1]))
    """
    own = logits.gather(1, token[:, None])
    best, other = logits.scatter(1, token[:, None], -torch.inf).max(dim=1)
    return Judgement(own[:, 0] - best, other)


def masked_logits(model: PreTrainedModel, states: Tensor, vocabulary: int) -> Tensor:
    """Return the raw logits of states, -inf for rows of the head that no token has: [N, D] -> float32 [N, V]."""
    logits = head_logits(model, states)
    if logits.shape[1] <= vocabulary:
        return logits
    unused = torch.arange(logits.shape[1], device=logits.device) >= vocabulary
    return logits.masked_fill(unused, -torch.inf)


def check_targets(requests: Sequence[EncodedRequest], vocabulary: int) -> None:
    """Refuse what no model can write.

    Raises:
        DataError: a target token that the tokenizer doesn't have, or two targets behind the same token ids.

    >>> check_targets([EncodedRequest("1", [5], [6, 7]), EncodedRequest("2", [5, 6], [8])], 9)
    Traceback (most recent call last):
    ...
    hotfix.errors.DataError: requests '1' and '2' want different tokens, 7 and 8, behind the same 2; keep one
    """
    wanted: dict[tuple[int, ...], tuple[str, int]] = {}
    for request in requests:
        for position, token in enumerate(request.target):
            if token >= vocabulary:
                raise DataError(
                    f"request {request.id!r}: target token {token} is none of the tokenizer's {vocabulary}",
                    hint="encode the request with the model's own tokenizer",
                )
            prefix = (*request.prompt, *request.target[:position])
            other, earlier = wanted.setdefault(prefix, (request.id, token))
            if earlier != token:
                raise DataError(
                    f"requests {other!r} and {request.id!r} want different tokens, {earlier} and {token}, behind the "
                    f"same {len(prefix)}",
                    hint="keep one",
                )


@torch.no_grad()
def detect(model: PreTrainedModel, requests: Sequence[EncodedRequest], vocabulary: int | None = None) -> list[Failure]:
    """Find every next-token failure of the targets, each behind the reference's own prefix.

    Args:
        model: in evaluation mode, with what is to be judged on.
        requests: as token ids; texts are never tokenised again.
        vocabulary: tokens that the tokenizer has; the head's rows beyond it are ignored. None takes all.

    Returns:
        The failures, by request and position.
    """
    found: list[Failure] = []
    size = int(model.config.get_text_config().vocab_size) if vocabulary is None else vocabulary
    for places in by_length([len(request.ids) for request in requests], _ROWS):
        found += _failures(model, requests, places, size)
    return sorted(found)


def _failures(
    model: PreTrainedModel, requests: Sequence[EncodedRequest], places: Sequence[int], vocabulary: int
) -> list[Failure]:
    rows = target_rows([requests[i] for i in places], model.device)
    states = hidden_states(model, rows.rows)[rows.row, rows.column]
    margin, other = judged(masked_logits(model, states, vocabulary), rows.token)
    found = []
    for n in (margin <= 0).nonzero()[:, 0].tolist():
        request = requests[places[int(rows.row[n])]]
        length = int(rows.column[n]) + 1
        found.append(
            Failure(
                request=places[int(rows.row[n])],
                position=length - len(request.prompt),
                prefix=request.ids[:length],
                target=int(rows.token[n]),
                predicted=int(other[n]),
                margin=float(margin[n]),
            )
        )
    return found

"""Keys and gradients where answers are predicted, and the change of a matrix that turns keys into values.

MALMEN (https://arxiv.org/abs/2311.04661) and UltraEdit (https://arxiv.org/abs/2505.14679) see an edit only through
these: what enters a block's feed-forward output matrix at each answer position, and the loss's gradient at what leaves
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from hotfix.data.edits import EncodedRequest
from hotfix.editors.rows import TargetRows, row_means, target_rows
from hotfix.models.layout import Projection, feed_forward_output, find_blocks
from hotfix.models.lower_states import LowerStates
from hotfix.models.states import head_logits, hidden_states
from hotfix.models.trace import captured, changed_output
from hotfix.patches import LowRank

__all__ = ["AnswerStates", "answer_states", "projections_of", "request_losses", "ridge_solution", "stored"]

_ROWS = 16


class AnswerStates(NamedTuple):
    """What one matrix [H, D] sees of some requests, a row for each target token in the order of the requests.

    Attributes:
        key: what enters the matrix at the position that predicts the token, [N, D], float32 at least.
        gradient: of the sum over the requests of the mean over their target tokens of -log p, with respect to what
            leaves the matrix there, [N, H], float32 at least.
    """

    key: Tensor
    gradient: Tensor


def projections_of(model: PreTrainedModel, layers: Sequence[int] | None) -> dict[str, Projection]:
    """Return the feed-forward output matrices of some blocks by the names of their weights.

    Args:
        model: whose blocks.
        layers: their indices; None takes the last 3/16, rounded up: 6 of 32, as MALMEN's settings have it.
    """
    if layers is None:
        count = len(find_blocks(cast("nn.Module", model)).blocks)
        layers = range(count - math.ceil(count * 3 / 16), count)
    found = [feed_forward_output(cast("nn.Module", model), layer) for layer in layers]
    return {projection.name: projection for projection in found}


def request_losses(model: PreTrainedModel, rows: TargetRows, passes: LowerStates | None = None) -> Tensor:
    """Return each request's mean of -log p over its target tokens, in nats: [B].

    Args:
        model: gives the tokens' probabilities.
        rows: the requests.
        passes: of the model, where the same rows are run many times.
    """
    states = hidden_states(model, rows.rows) if passes is None else passes.last(rows.rows)
    logits = head_logits(model, states[rows.row, rows.column])
    each = F.cross_entropy(logits, rows.token, reduction="none")
    return row_means(each, rows.row, len(rows.last))


def answer_states(
    model: PreTrainedModel,
    requests: Sequence[EncodedRequest],
    projections: Mapping[str, Projection],
    passes: LowerStates | None = None,
) -> dict[str, AnswerStates]:
    """Return keys and gradients of several matrices; a row's are those that the request would have alone.

    Args:
        model: frozen.
        requests: at least one.
        projections: the matrices, by any name.
        passes: of the model, where the same requests are run many times.

    Returns:
        By the same names.
    """
    found = [
        _of_rows(model, target_rows(requests[start : start + _ROWS], model.device), projections, passes)
        for start in range(0, len(requests), _ROWS)
    ]
    return {
        name: AnswerStates(torch.cat([f[name].key for f in found]), torch.cat([f[name].gradient for f in found]))
        for name in projections
    }


def ridge_solution(keys: Tensor, values: Tensor, ridge: float | Tensor) -> Tensor:
    """Return the left factor of the matrix that maps keys to values: W = argmin sum |W k - v|^2 + ridge |W|^2.

    W is `left @ keys`, with `left = V^T (K K^T + ridge)^-1`; no matrix of the keys' width squared is made.

    Args:
        keys: float64 [N, D].
        values: float64 [N, H].
        ridge: more than 0.

    Returns:
        float64 [H, N].

    >>> ridge_solution(torch.tensor([[2.0]]).double(), torch.tensor([[5.0]]).double(), 1.0)
    tensor([[1.]], dtype=torch.float64)
    """
    gram = keys @ keys.T + ridge * torch.eye(len(keys), dtype=keys.dtype, device=keys.device)
    return torch.cholesky_solve(values, torch.linalg.cholesky(gram)).T


def stored(projection: Projection, left: Tensor, right: Tensor) -> LowRank:
    """Return the change `left @ right` of a matrix [H, D], as its model holds it, in float32."""
    left, right = left.float(), right.float()
    return LowRank(right.T, left.T) if projection.transposed else LowRank(left, right)


def _of_rows(
    model: PreTrainedModel, rows: TargetRows, projections: Mapping[str, Projection], passes: LowerStates | None
) -> dict[str, AnswerStates]:
    # Half precision would keep too few of a small gradient's digits once it is normalised.
    kind = torch.promote_types(model.dtype, torch.float32)
    added = {
        name: torch.zeros(len(rows.token), len(p.weight), device=rows.token.device, dtype=kind, requires_grad=True)
        for name, p in projections.items()
    }
    with captured({n: p.module for n, p in projections.items()}, "input") as seen, _shifted(rows, projections, added):
        loss = request_losses(model, rows, passes).sum()
    gradients = torch.autograd.grad(loss, list(added.values()))
    return {
        name: AnswerStates(seen[name].detach()[rows.row, rows.column].to(gradient.dtype), gradient)
        for name, gradient in zip(added, gradients, strict=True)
    }


@contextmanager
def _shifted(rows: TargetRows, projections: Mapping[str, Projection], added: Mapping[str, Tensor]) -> Iterator[None]:
    """Add [N, H] to what leaves each matrix where an answer is predicted."""

    def adding(shift: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda out: out.index_put((rows.row, rows.column), shift.to(out.dtype), accumulate=True)

    with ExitStack() as stack:
        for name, projection in projections.items():
            stack.enter_context(changed_output(projection.module, adding(added[name])))
        yield

"""Which blocks an editor changes: given, or at the same depth as in the papers, or measured.

Measured is what an edit of a block's feed-forward output matrix could do at the prompt's last token, for requests that
are not edited:

    score = |g| |v| |k - its part in the span of others' keys| / |k|

g is the gradient, at what leaves the matrix, of the loss of the target's tokens behind the first; v is what leaves it.
So |g| |v| is the fall of the loss for a change as long as what is there, to first order: little in the last blocks,
where nothing is left above to carry a change to later tokens, and the last block of all is never chosen. The last
factor is the share of the key that prompts alike don't have: little in the first blocks, where a last token's key
hardly knows what came before, so whatever is written there fires at all of them. The score is averaged over requests as
a geometric mean, and the run of blocks with the largest sum is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from hotfix.data.edits import EncodedRequest
from hotfix.editors.contexts import Surroundings, contrasts
from hotfix.editors.rows import target_rows
from hotfix.errors import ConfigError
from hotfix.models.layout import Projection, feed_forward_output, find_blocks
from hotfix.models.states import head_logits, hidden_states
from hotfix.models.trace import captured, changed_output

__all__ = ["at_depths", "best_run", "block_scores", "check_blocks", "distinct_share"]


def at_depths(depths: Sequence[float], count: int) -> list[int]:
    """Return the blocks at some shares of a decoder's depth, each once.

    >>> at_depths([4 / 31, 5 / 31, 6 / 31], 32)
    [4, 5, 6]
    >>> at_depths([0.1, 0.15, 0.2], 4)
    [0, 1]
    """
    return sorted({round(depth * (count - 1)) for depth in depths})


def check_blocks(blocks: Sequence[int], count: int) -> list[int]:
    """Return the blocks in ascending order.

    Raises:
        ConfigError: there are none, one is there twice or isn't there.
    """
    found = sorted(set(blocks))
    if not found or len(found) != len(blocks) or found[0] < 0 or found[-1] >= count:
        raise ConfigError(
            f"editor.init_args.layers is {list(blocks)}, expected different indices of blocks from 0 to {count - 1}"
        )
    return found


def best_run(scores: Sequence[float], length: int) -> list[int]:
    """Return the blocks of the run with the largest sum of scores, the first of equal ones.

    >>> best_run([0.1, 0.5, 0.4, 0.2], 2)
    [1, 2]
    """
    starts = range(max(1, len(scores) - length + 1))
    first = max(starts, key=lambda start: sum(scores[start : start + length]))
    return list(range(first, min(first + length, len(scores))))


def distinct_share(key: Tensor, others: Tensor) -> float:
    """Return the share of a key's length that no combination of other keys gives: [D], [n, D] -> 0 to 1.

    >>> round(distinct_share(torch.tensor([3.0, 4.0]), torch.tensor([[5.0, 0.0]])), 6)
    0.8
    """
    basis, sizes, _ = torch.linalg.svd(others.double().T, full_matrices=False)
    basis = basis[:, sizes > 1e-6 * others.double().norm()]
    rest = key.double() - basis @ (basis.T @ key.double())
    return float(rest.norm() / key.double().norm())


def block_scores(
    model: PreTrainedModel, requests: Sequence[EncodedRequest], around: Surroundings, others: int = 16
) -> list[float]:
    """Return every block's score, as the module says.

    Args:
        model: frozen.
        requests: none of them is edited.
        around: where other prompts are from.
        others: how many each request's keys are held against.
    """
    count = len(find_blocks(model.get_decoder()).blocks)
    projections = {str(block): feed_forward_output(model, block) for block in range(count)}
    logs = torch.stack([_scores(model, projections, r, around, others).clamp(min=1e-12).log() for r in requests])
    return cast("list[float]", logs.mean(0).exp().tolist())


def _scores(
    model: PreTrainedModel,
    projections: Mapping[str, Projection],
    request: EncodedRequest,
    around: Surroundings,
    others: int,
) -> Tensor:
    """Return one request's scores, [blocks]."""
    rows = target_rows([request], model.device)
    modules = {name: projection.module for name, projection in projections.items()}
    added = {n: torch.zeros(len(p.weight), device=model.device, requires_grad=True) for n, p in projections.items()}

    def at_end(shift: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda out: out.index_put((rows.row[:1], rows.last), shift[None].to(out.dtype), accumulate=True)

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(changed_output(module, at_end(added[name])))
        keys = stack.enter_context(captured(modules, "input"))
        values = stack.enter_context(captured(modules, "output"))
        # The first token follows from the last block's output alone, whatever that does for the others.
        later = rows.column > rows.last[rows.row] if len(rows.token) > 1 else rows.column >= 0
        logits = head_logits(model, hidden_states(model, rows.rows)[rows.row[later], rows.column[later]])
    gradients = torch.autograd.grad(F.cross_entropy(logits, rows.token[later]), list(added.values()))
    with torch.no_grad(), captured(modules, "input") as seen:
        beside = target_rows(contrasts(request, around, others), model.device)
        hidden_states(model, beside.rows)
    every, last, found = torch.arange(len(beside.last), device=model.device), rows.last[0], []
    for name, gradient in zip(modules, gradients, strict=True):
        distinct = distinct_share(keys[name][0, last].detach().float(), seen[name][every, beside.last].float())
        found.append(float(gradient.norm() * values[name][0, last].detach().float().norm()) * distinct)
    return torch.tensor(found)

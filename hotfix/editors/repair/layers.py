"""Which blocks a repair may change: those whose feed-forward part the target needs most.

STAR's statistic: let what enters a block's feed-forward part through unchanged, and see how much likelier or unlikelier
the target is. It passes the input on instead of nothing; the two choose different blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from hotfix.editors.rows import TargetRows
from hotfix.models.layout import feed_forward_output, find_blocks
from hotfix.models.rows import TokenRows
from hotfix.models.states import head_logits, hidden_states

__all__ = ["LayerChoice", "block_count", "bypass_losses", "chosen_layers"]

LayerChoice: TypeAlias = Literal["all", "three_quarters", "half", "quarter", "one", "upper_half"] | list[int]
_SHARES: Final = {"three_quarters": 0.75, "half": 0.5, "quarter": 0.25, "one": 0.0}
_COPIES = 8


def block_count(model: PreTrainedModel) -> int:
    """Return how many blocks the decoder has."""
    return len(find_blocks(model.get_decoder()).blocks)


def chosen_layers(model: PreTrainedModel, rows: TargetRows, choice: LayerChoice) -> list[int]:
    """Return the indices of the blocks to change, ascending.

    Args:
        model: the model as it is now.
        rows: one request, on whose target tokens the shares are measured.
        choice: a share of the blocks, those first whose bypass hurts the targets most (at least one block);
            `upper_half`, nearest to the head, or `all`, without measuring; or the indices themselves.
    """
    count = block_count(model)
    if isinstance(choice, list):
        return sorted(choice)
    if choice in ("all", "upper_half"):
        return list(range(count // 2 if choice == "upper_half" else 0, count))
    worst = bypass_losses(model, rows).argsort(descending=True, stable=True)
    return sorted(worst[: max(1, int(count * _SHARES[choice]))].tolist())


@torch.no_grad()
def bypass_losses(model: PreTrainedModel, rows: TargetRows) -> Tensor:
    """Return the targets' mean of -log p with each block's feed-forward part passed through: float32 [blocks].

    Args:
        model: the model.
        rows: one request; its copies run in one batch, one block bypassed in each.
    """
    found = []
    for part in torch.arange(block_count(model)).split(_COPIES):
        copies = _copied(rows.rows, len(part))
        with _bypassed(model, part.tolist()):
            states = hidden_states(model, copies)[:, rows.column]  # [copies, N, D]
        logits = head_logits(model, states.flatten(0, 1))
        losses = F.cross_entropy(logits, rows.token.repeat(len(part)), reduction="none")
        found.append(losses.view(len(part), -1).mean(dim=1))
    return torch.cat(found)


def _copied(rows: TokenRows, count: int) -> TokenRows:
    one = [t[:1].expand(count, -1) for t in (rows.input_ids, rows.position_ids, rows.branch)]
    return TokenRows(*one)


@contextmanager
def _bypassed(model: PreTrainedModel, layers: Sequence[int]) -> Iterator[None]:
    """Row r of the batch skips the feed-forward part of block `layers[r]`."""

    def hook(row: int) -> Any:  # noqa: ANN401  a forward hook
        def put(module: nn.Module, args: tuple[Any, ...], result: Any) -> Any:  # noqa: ANN401  a tensor or a tuple
            states = (result[0] if isinstance(result, tuple) else result).clone()
            # Where a block has no module for the part, only its output matrix: nothing comes out instead.
            states[row] = args[0][row] if args[0].shape == states.shape else 0
            return (states, *result[1:]) if isinstance(result, tuple) else states

        return put

    handles = [_feed_forward(model, layer).register_forward_hook(hook(row)) for row, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _feed_forward(model: PreTrainedModel, layer: int) -> nn.Module:
    """The block's part that holds the output matrix."""
    last = feed_forward_output(model, layer).module
    block = find_blocks(model.get_decoder()).blocks[layer]
    return next(part for part in block.children() if any(module is last for module in part.modules()))

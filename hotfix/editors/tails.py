"""The ends of rows, run again and again above some block, with all else computed once.

A change at one position of one block reaches neither the blocks below nor the positions before. What enters the block
is kept, and what attention keeps of the positions before; a pass costs what its few last tokens cost in the upper
blocks.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from hotfix.errors import ModelError
from hotfix.models.attention import plain_products
from hotfix.models.doors import from_block
from hotfix.models.layout import find_blocks
from hotfix.models.rows import PADDING, TokenRows
from hotfix.models.states import own_precision, token_inputs

__all__ = ["Spans", "Tails", "tail_states", "tails_from"]


class Spans(NamedTuple):
    """B tails; several may be of one row.

    Attributes:
        row: of each, int64 [B].
        start: position at which it begins, int64 [B].
        stop: position behind its last token, int64 [B].
    """

    row: Tensor
    start: Tensor
    stop: Tensor


class Tails(NamedTuple):
    """B texts from one position of each on, S tokens at most.

    Attributes:
        entering: what enters the block, [B, S, D].
        position: of each token in its text, int64 [B, S].
        mask: of the tokens before, which end at the same column, and of these, int64 [B, P + S].
        cache: keys and values of the tokens before.
        states: last hidden states at the first tokens, [B, D].
    """

    entering: Tensor
    position: Tensor
    mask: Tensor
    cache: DynamicCache
    states: Tensor

    def only(self, rows: Tensor) -> Self:
        """Return some of the rows, int64."""
        cache = _with_own_layers(self.cache)
        cache.batch_select_indices(rows)
        return type(self)(self.entering[rows], self.position[rows], self.mask[rows], cache, self.states[rows])


@torch.no_grad()
def tails_from(model: PreTrainedModel, rows: TokenRows, spans: Spans, entered: Callable[[], Tensor]) -> Tails:
    """Run a model once, and keep what some tails need.

    Args:
        model: frozen.
        rows: plain texts, padded on the right.
        spans: the tails.
        entered: gives what has entered the block in this run, [R, T, D].

    Raises:
        ModelError: the model keeps something other than keys and values.
    """
    there = rows.branch != PADDING
    decoder = cast("nn.Module", model.get_decoder())
    with own_precision(cast("nn.Module", model)), plain_products(model):
        output = decoder(
            **token_inputs(cast("nn.Module", model), rows.input_ids),
            attention_mask=there.long(),
            # The model's own choice may forget what has left a sliding window.
            past_key_values=DynamicCache(),
            use_cache=True,
        )
    row, start, stop = spans
    before, width = int(start.max()), int((stop - start).max())
    steps = torch.arange(max(before, width), device=start.device)
    past = steps[:before] - (before - start)[:, None]  # [B, P], negative where a shorter row has none
    tail = start[:, None] + steps[:width]  # [B, S]
    mask = torch.cat([past >= 0, tail < stop[:, None]], dim=1).long()
    tail, past = tail.clamp(max=there.shape[1] - 1), past.clamp(min=0)
    return Tails(
        entered()[row[:, None], tail].detach(),
        tail,
        mask,
        _chosen(model, output.past_key_values, row, past),
        output.last_hidden_state[row, start],
    )


def tail_states(model: PreTrainedModel, tails: Tails, first: int) -> Tensor:
    """Return the last hidden states of the tails, [B, S, D], from block `first` on."""
    decoder = cast("nn.Module", model.get_decoder())
    cache = _with_own_layers(tails.cache)
    known = "position_ids" in inspect.signature(decoder.forward).parameters
    with own_precision(cast("nn.Module", model)), plain_products(model), from_block(decoder, first, tails.entering):
        output = decoder(
            inputs_embeds=tails.entering,
            attention_mask=tails.mask,
            past_key_values=cache,
            use_cache=True,
            **({"position_ids": tails.position} if known else {}),
        )
    return cast("Tensor", output.last_hidden_state)


def _with_own_layers(cache: DynamicCache) -> DynamicCache:
    """Return a cache of the same tensors: what appends to it or selects from it puts new ones into its own layers."""
    own = copy.copy(cache)
    own.layers = [copy.copy(layer) for layer in cache.layers]
    return own


def _chosen(model: PreTrainedModel, cache: object, row: Tensor, past: Tensor) -> DynamicCache:
    """Return keys and values of the positions before the tails, moved next to them: [B, P] -> B rows of P."""
    chosen = DynamicCache()
    for i, layer in enumerate(getattr(cache, "layers", ())):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None:
            break
        both = (part.transpose(1, 2)[row[:, None], past].transpose(1, 2).contiguous() for part in (keys, values))
        chosen.update(*both, i)
    if len(chosen.layers) != len(find_blocks(model.get_decoder()).blocks):
        raise ModelError(f"{type(model).__name__} keeps something other than keys and values, so it can't be edited so")
    return chosen

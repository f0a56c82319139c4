"""Forward passes with a key-value cache: prompts are computed once, then branched, extended and dropped row by row."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Cache

from hotfix.errors import ModelError

__all__ = ["Branches", "extend", "num_virtual_tokens", "prefill", "select"]


@dataclass(frozen=True)
class Branches:
    """Sequences that a model has read, padded on the left.

    Args:
        cache: keys and values of [B, L] positions.
        logits: [B, V], for the token after each sequence.
        mask: int64 [B, L], 0 at the padding.
        positions: int64 [B], of the token after each sequence.
    """

    cache: Cache
    logits: Tensor
    mask: Tensor
    positions: Tensor


def num_virtual_tokens(model: nn.Module) -> int:
    """Returns how many virtual tokens (prompt or prefix tuning) the model's active adapter puts before each prompt."""
    config: Any = getattr(model, "active_peft_config", None)
    return int(config.num_virtual_tokens) if getattr(config, "is_prompt_learning", False) else 0


def prefill(model: nn.Module, prompts: Sequence[Sequence[int]]) -> Branches:
    """Reads some prompts; where the model has virtual tokens, prompts must be of one length.

    Raises:
        ModelError: the model has no key-value cache that can be branched.
    """
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    width = int(lengths.max())
    mask = (torch.arange(width) >= (width - lengths)[:, None]).long()
    token_ids = torch.zeros_like(mask).masked_scatter(mask.bool(), torch.cat([torch.tensor(p) for p in prompts]))
    device = next(model.parameters()).device
    token_ids, mask = token_ids.to(device), mask.to(device)
    # With virtual tokens the adapter itself numbers the positions, and refuses ours.
    positions = None if num_virtual_tokens(model) else (mask.cumsum(-1) - 1).clamp(min=0)
    output = _forward(model, token_ids, mask, positions, None)
    cache = getattr(output, "past_key_values", None)
    if not isinstance(cache, Cache):
        raise ModelError(f"{type(_base(model)).__name__} returns no key-value cache; completions need one")
    virtual = cache.get_seq_length() - width
    mask = torch.cat([mask.new_ones(len(prompts), virtual), mask], dim=1)
    return Branches(cache, output.logits[:, -1], mask, mask.sum(-1))


def select(branches: Branches, rows: Sequence[int], *, reuse: bool = True) -> Branches:
    """Returns the ``rows``, in their order, each as often as it is named.

    Args:
        branches: what to select from.
        rows: indices into it.
        reuse: whether ``branches`` may be destroyed, which saves a copy of its cache.
    """
    index = cast("torch.LongTensor", torch.tensor(rows, device=branches.mask.device))
    cache = branches.cache if reuse else copy.deepcopy(branches.cache)
    cache.reorder_cache(index)
    return Branches(cache, branches.logits[index], branches.mask[index], branches.positions[index])


def extend(model: nn.Module, branches: Branches, token_ids: Tensor) -> Branches:
    """Reads one more token for each row, ``token_ids`` int64 [B]; ``branches`` is used up."""
    mask = torch.cat([branches.mask, branches.mask.new_ones(len(token_ids), 1)], dim=1)
    # The virtual tokens are in the cache by now; an adapter of that kind would add them again.
    reader = _base(model) if num_virtual_tokens(model) else model
    output = _forward(reader, token_ids[:, None], mask, branches.positions[:, None], branches.cache)
    return Branches(branches.cache, output.logits[:, -1], mask, branches.positions + 1)


def _base(model: nn.Module) -> nn.Module:
    base: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return base


def _forward(model: nn.Module, token_ids: Tensor, mask: Tensor, positions: Tensor | None, cache: Cache | None) -> Any:  # noqa: ANN401 - every architecture has its own output class
    known = inspect.signature(_base(model).forward).parameters
    options = {"position_ids": positions, "past_key_values": cache, "logits_to_keep": 1}
    # Models with linear attention biases number positions by the mask and take no position_ids.
    options = {name: value for name, value in options.items() if name in known and value is not None}
    return model(input_ids=token_ids, attention_mask=mask, use_cache=True, **options)

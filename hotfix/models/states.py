"""The two halves of a causal language model: hidden states for all positions, the head only where it is asked for.

A `[B, T, V]` tensor of logits is never made: with 49,152 words, logits of one row of 512 tokens are 100 MB in float32.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from hotfix.errors import ModelError
from hotfix.models.layout import upper_blocks
from hotfix.models.rows import PADDING, TokenRows

__all__ = ["check_halves", "head_logits", "hidden_states", "own_precision", "plain_model", "upper_states"]


def plain_model(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model under any peft wrapper; its layers keep their adapters."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(inner, PreTrainedModel):
        raise ModelError(f"{type(inner).__name__} is not a transformers model")
    return inner


def hidden_states(model: nn.Module, rows: TokenRows) -> Tensor:
    """Return the decoder's last hidden states, behind the final norm, [B, T, D]."""
    inner = plain_model(model)
    with own_precision(inner):
        if not (rows.branch == 2).any():
            return _one_branch(inner, rows)
        return _both_branches(inner, rows) if _takes_branches(inner, rows) else _branch_by_branch(inner, rows)


def upper_states(model: nn.Module, rows: TokenRows, entering: Tensor, first: int) -> Tensor:
    """Return the last hidden states from what enters block `first`: [B, T, D] -> [B, T, D]."""
    inner = plain_model(model)
    decoder = inner.get_decoder()
    with own_precision(inner), upper_blocks(decoder, first):
        output = decoder(
            inputs_embeds=entering,
            position_ids=rows.position_ids,
            attention_mask=_readable(inner, rows.attention_mask()),
            use_cache=False,
        )
    return cast("Tensor", output.last_hidden_state)


def head_logits(model: nn.Module, states: Tensor) -> Tensor:
    """Return the logits of selected hidden states: [N, D] -> float32 [N, V]."""
    inner = plain_model(model)
    config = inner.config.get_text_config()
    with own_precision(inner):
        logits: Tensor = inner.get_output_embeddings()(states).float()
    scale = getattr(config, "logit_scale", None)
    if scale:
        logits = logits * scale
    divisor = getattr(config, "logits_scaling", None)
    if divisor:
        logits = logits / divisor
    cap = getattr(config, "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits


@torch.no_grad()
def check_halves(model: nn.Module) -> None:
    """Prove on a short text with two endings that the two halves, packed as in training, give the model's own logits.

    Raises:
        ModelError: they don't, so a loss computed with them would be of some other model.
    """
    inner = plain_model(model)
    ids = torch.arange(1, 13, device=inner.device)[None] % inner.config.get_text_config().vocab_size
    branch = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]], device=inner.device)
    steps = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]], device=inner.device)
    got = head_logits(model, hidden_states(model, TokenRows(ids, steps, branch))[0])
    limit = 1e-3 if inner.dtype == torch.float32 else 0.05
    for ending in (1, 2):
        own = (branch[0] == 0) | (branch[0] == ending)
        with own_precision(inner):
            expected = inner(input_ids=ids[:, own], use_cache=False).logits[0].float()
        worst = (got[own] - expected).abs().max().item() / max(1.0, expected.abs().max().item())
        if not worst <= limit:
            raise ModelError(
                f"{type(inner).__name__} computes its logits in a way that hotfix doesn't know (they differ by "
                f"{worst:.2g} of the largest); please report the model's name"
            )


def _one_branch(inner: PreTrainedModel, rows: TokenRows) -> Tensor:
    """Rows that are padded on the right and nothing else need no mask of ours, so any architecture takes them."""
    mask = (rows.branch != PADDING).long()
    output = inner.get_decoder()(input_ids=rows.input_ids, attention_mask=mask, use_cache=False)
    return cast("Tensor", output.last_hidden_state)


def _both_branches(inner: PreTrainedModel, rows: TokenRows) -> Tensor:
    mask = _readable(inner, rows.attention_mask())
    output = inner.get_decoder()(
        input_ids=rows.input_ids, position_ids=rows.position_ids, attention_mask=mask, use_cache=False
    )
    return cast("Tensor", output.last_hidden_state)


def _readable(inner: PreTrainedModel, mask: Tensor) -> Tensor:
    """Only sdpa reads a mask of yes and no; eager attention adds the mask to its scores."""
    if inner.config.get_text_config()._attn_implementation == "sdpa":
        return mask
    lowest = torch.finfo(inner.dtype).min
    return torch.zeros(mask.shape, dtype=inner.dtype, device=mask.device).masked_fill(~mask, lowest)


def _branch_by_branch(inner: PreTrainedModel, rows: TokenRows) -> Tensor:
    """Run each branch in rows of its own and put the states back where its tokens are."""
    found = []
    for branch in (1, 2):
        keep = (rows.branch == 0) | (rows.branch == branch)
        order = (~keep).long().argsort(dim=1, stable=True)
        kinds = torch.where(keep, 0, PADDING).gather(1, order)
        states = _one_branch(inner, TokenRows(rows.input_ids.gather(1, order), rows.position_ids, kinds))
        back = order.argsort(dim=1)[:, :, None]  # [B, T, 1]
        found.append(states.gather(1, back.expand_as(states)))
    return torch.where((rows.branch == 2)[:, :, None], found[1], found[0])


def _takes_branches(inner: PreTrainedModel, rows: TokenRows) -> bool:
    """Whether positions and mask alone say what a token sees: no recurrence, no ALiBi, no window within the row."""
    config = inner.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "window_size")]
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    return (
        "position_ids" in inspect.signature(inner.get_decoder().forward).parameters
        and not getattr(config, "alibi", False)
        and not kinds
        and all(rows.branch.shape[1] <= window for window in windows if window)
    )


@contextlib.contextmanager
def own_precision(model: nn.Module) -> Iterator[None]:
    """Multiply in the base's own precision; adapters keep their float32 weights, which small updates need."""
    dtype = plain_model(model).dtype
    if dtype == torch.float32:
        yield
        return
    # peft would widen every layer's input to float32, and autocast narrow it again: two copies a layer.
    layers: list[Any] = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
    before = [layer.cast_input_dtype_enabled for layer in layers]
    for layer in layers:
        layer.cast_input_dtype_enabled = False
    try:
        with torch.autocast(plain_model(model).device.type, dtype=dtype):
            yield
    finally:
        for layer, cast_input in zip(layers, before, strict=True):
            layer.cast_input_dtype_enabled = cast_input

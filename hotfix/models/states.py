"""The two halves of a causal language model: hidden states for all positions, the head only where it is asked for.

A `[B, T, V]` tensor of logits is never made: with 49,152 words, logits of one row of 512 tokens are 100 MB in float32.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft import PeftModel, PeftType
from torch import Tensor, nn
from transformers import PreTrainedModel

from hotfix.errors import ModelError
from hotfix.models.attention import plain_products
from hotfix.models.checkpointing import is_checkpointed
from hotfix.models.doors import from_block, upper_blocks
from hotfix.models.rows import PADDING, TokenRows

__all__ = [
    "check_halves",
    "fixed_head",
    "head_logits",
    "hidden_states",
    "own_precision",
    "plain_model",
    "prefix_length",
    "takes_masks",
    "token_inputs",
    "upper_states",
]


def prefix_length(model: nn.Module) -> int:
    """Return how many learnt keys and values stand before each row: 0 without prefix tuning, or with it switched off.

    Raises:
        ModelError: the adapter puts something else before the rows.
    """
    if not isinstance(model, PeftModel) or model._adapters_disabled or not model.active_peft_config.is_prompt_learning:
        return 0
    config = model.active_peft_config
    if config.peft_type != PeftType.PREFIX_TUNING:
        raise ModelError(f"hotfix can't compute with {config.peft_type.value}; use hotfix.adapters.PrefixTuning")
    return int(config.num_virtual_tokens)


def plain_model(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model under any peft wrapper; its layers keep their adapters."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(inner, PreTrainedModel):
        raise ModelError(f"{type(inner).__name__} is not a transformers model")
    return inner


def hidden_states(model: nn.Module, rows: TokenRows) -> Tensor:
    """Return the decoder's last hidden states, behind the final norm, [B, T, D]."""
    with own_precision(model):
        if not (rows.branch == 2).any():
            return _one_branch(model, rows)
        return _both_branches(model, rows) if takes_masks(model, rows) else _branch_by_branch(model, rows)


def upper_states(model: nn.Module, rows: TokenRows, entering: Tensor, first: int) -> Tensor:
    """Return the last hidden states from what enters block `first`: [B, T, D] -> [B, T, D]."""
    decoder = plain_model(model).get_decoder()
    # Where a block is checkpointed with its hooks, it runs again when nothing is put in any more: then only what the
    # decoder itself passes on is right.
    part = upper_blocks(decoder, first) if is_checkpointed(decoder) else from_block(decoder, first, entering)
    with own_precision(model), part:
        return _masked(model, rows, inputs_embeds=entering)


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


def fixed_head(model: nn.Module) -> nn.Linear | None:
    """Return the head where the logits are a frozen matrix times the states, of base and policy alike, else None."""
    inner = plain_model(model)
    config, head = inner.config.get_text_config(), inner.get_output_embeddings()
    bent = any(getattr(config, name, None) for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"))
    plain = type(head) is nn.Linear and not any(p.requires_grad for p in head.parameters())
    return cast("nn.Linear", head) if plain and not bent else None


@torch.no_grad()
def check_halves(model: nn.Module) -> None:
    """Prove on a short text with two endings that the two halves, packed as in training, give the model's own logits.

    Raises:
        ModelError: they don't, so a loss computed with them would be of some other model.
    """
    inner = plain_model(model)
    # Tokens from all over the vocabulary: a row of special ones is chaos, which rounding alone turns upside down.
    ids = torch.arange(1, 13, device=inner.device)[None] * inner.config.get_text_config().vocab_size // 14
    branch = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]], device=inner.device)
    steps = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]], device=inner.device)
    got = head_logits(model, hidden_states(model, TokenRows(ids, steps, branch))[0])
    limit = 1e-3 if inner.dtype == torch.float32 else 0.05
    for ending in (1, 2):
        own = (branch[0] == 0) | (branch[0] == ending)
        with own_precision(model):
            expected = model(**token_inputs(model, ids[:, own]), use_cache=False).logits[0].float()
            plain = model(input_ids=ids[:, own], use_cache=False).logits[0].float()
        worst = (got[own] - expected).abs().max().item() / max(1.0, expected.abs().max().item())
        # Given ids, a half-precision model rounds more, so single logits say little; another function shows in all.
        worst = max(worst, ((got[own] - plain).square().mean() / plain.square().mean().clamp(min=1)).sqrt().item())
        if not worst <= limit:
            raise ModelError(
                f"{type(inner).__name__} computes its logits in a way that hotfix doesn't know (they differ by "
                f"{worst:.2g} of the largest); please report the model's name"
            )


def takes_masks(model: nn.Module, rows: TokenRows) -> bool:
    """Whether positions and mask alone say what a token sees: no recurrence, no ALiBi, no window within the row."""
    inner, width = plain_model(model), rows.branch.shape[1] + prefix_length(model)
    config = inner.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "window_size")]
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    return (
        "position_ids" in inspect.signature(inner.get_decoder().forward).parameters
        and not getattr(config, "alibi", False)
        and not kinds
        and all(width <= window for window in windows if window)
    )


def _one_branch(model: nn.Module, rows: TokenRows) -> Tensor:
    """Rows that are padded on the right and nothing else need no mask of ours, so any architecture takes them."""
    mask = F.pad((rows.branch != PADDING).long(), (prefix_length(model), 0), value=1)
    inner = plain_model(model)
    with _attention(inner):
        output = inner.get_decoder()(
            **token_inputs(model, rows.input_ids), attention_mask=mask, **_prefix(model, len(mask))
        )
    return cast("Tensor", output.last_hidden_state)


def _both_branches(model: nn.Module, rows: TokenRows) -> Tensor:
    return _masked(model, rows, **token_inputs(model, rows.input_ids))


def _masked(model: nn.Module, rows: TokenRows, **tokens: Tensor) -> Tensor:
    """Run the decoder with positions and mask of our own."""
    inner, prefix = plain_model(model), prefix_length(model)
    mask = _readable(inner, F.pad(rows.attention_mask(), (prefix, 0), value=True))
    with _attention(inner):
        output = inner.get_decoder()(
            **tokens, position_ids=rows.position_ids + prefix, attention_mask=mask, **_prefix(model, len(mask))
        )
    return cast("Tensor", output.last_hidden_state)


def token_inputs(model: nn.Module, input_ids: Tensor) -> dict[str, Tensor]:
    """Return what a decoder is given for tokens [B, T]: the embeddings of a half-precision model in float32.

    The sums between its blocks stay in float32 then, at no cost in time. In bfloat16 each sum is rounded, and two
    passes that round apart differ by some 0.003 nats a token, more than a patch moves what it should leave alone.
    """
    inner = plain_model(model)
    if inner.dtype == torch.float32 or (inner.device.type == "cpu" and _has_layer_norm(inner)):
        return {"input_ids": input_ids}
    return {"inputs_embeds": inner.get_input_embeddings()(input_ids).float()}


def _has_layer_norm(inner: PreTrainedModel) -> bool:
    """Torch's own layer norm takes no float32 states with half-precision weights on a CPU."""
    return any(isinstance(module, nn.LayerNorm) for module in inner.get_decoder().modules())


def _attention(inner: PreTrainedModel) -> contextlib.AbstractContextManager[None]:
    # With gradient checkpointing the blocks run again outside this context, and have to run the same way.
    again = is_checkpointed(inner.get_decoder()) and torch.is_grad_enabled()
    return contextlib.nullcontext() if again else plain_products(inner)


def _prefix(model: nn.Module, count: int) -> dict[str, Any]:
    """Options that put learnt keys and values before `count` rows; made anew for each pass, which appends to them."""
    if not prefix_length(model):
        return {"use_cache": False}
    return {"use_cache": True, "past_key_values": cast("PeftModel", model).get_prompt(count)}


def _readable(inner: PreTrainedModel, mask: Tensor) -> Tensor:
    """Only sdpa reads a mask of yes and no; eager attention adds the mask to its scores."""
    if inner.config.get_text_config()._attn_implementation == "sdpa":
        return mask
    lowest = torch.finfo(inner.dtype).min
    return torch.zeros(mask.shape, dtype=inner.dtype, device=mask.device).masked_fill(~mask, lowest)


def _branch_by_branch(model: nn.Module, rows: TokenRows) -> Tensor:
    """Run each branch in rows of its own and put the states back where its tokens are."""
    found = []
    for branch in (1, 2):
        keep = (rows.branch == 0) | (rows.branch == branch)
        order = (~keep).long().argsort(dim=1, stable=True)
        kinds = torch.where(keep, 0, PADDING).gather(1, order)
        states = _one_branch(model, TokenRows(rows.input_ids.gather(1, order), rows.position_ids, kinds))
        back = order.argsort(dim=1)[:, :, None]  # [B, T, 1]
        found.append(states.gather(1, back.expand_as(states)))
    return torch.where((rows.branch == 2)[:, :, None], found[1], found[0])


@contextlib.contextmanager
def own_precision(model: nn.Module) -> Iterator[None]:
    """Multiply in the base's own precision; adapters keep their float32 weights, which small updates need."""
    dtype = plain_model(model).dtype
    if dtype == torch.float32:
        yield
        return
    # peft would widen every layer's input to float32, and autocast narrow it again: two copies a layer.
    # Layers that cast nothing (IA3's) have no such switch.
    layers: list[Any] = [m for m in model.modules() if hasattr(m, "cast_input_dtype_enabled")]
    before = [layer.cast_input_dtype_enabled for layer in layers]
    for layer in layers:
        layer.cast_input_dtype_enabled = False
    try:
        with torch.autocast(plain_model(model).device.type, dtype=dtype):
            yield
    finally:
        for layer, cast_input in zip(layers, before, strict=True):
            layer.cast_input_dtype_enabled = cast_input

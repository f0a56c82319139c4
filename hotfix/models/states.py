"""The two halves of a causal language model: hidden states for all positions, the head only where it is asked for.

A `[B, T, V]` tensor of logits is never made: with 49,152 words, logits of one row of 512 tokens are 100 MB in float32.
"""

from __future__ import annotations

import contextlib
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from hotfix.errors import ModelError
from hotfix.models.rows import TokenRows

__all__ = ["check_halves", "head_logits", "hidden_states", "plain_model"]


def plain_model(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model under any peft wrapper; its layers keep their adapters."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(inner, PreTrainedModel):
        raise ModelError(f"{type(inner).__name__} is not a transformers model")
    return inner


def hidden_states(model: nn.Module, rows: TokenRows) -> Tensor:
    """Return the decoder's last hidden states, behind the final norm, [B, T, D]."""
    inner = plain_model(model)
    with _autocast(inner):
        output = inner.get_decoder()(
            input_ids=rows.input_ids,
            position_ids=rows.position_ids,
            attention_mask=rows.attention_mask(),
            use_cache=False,
        )
    return cast("Tensor", output.last_hidden_state)


def head_logits(model: nn.Module, states: Tensor) -> Tensor:
    """Return the logits of selected hidden states: [N, D] -> float32 [N, V]."""
    inner = plain_model(model)
    config = inner.config.get_text_config()
    with _autocast(inner):
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
    """Prove on a short text that the two halves, with a mask of ours, give the model's own logits.

    Raises:
        ModelError: they don't, so a loss computed with them would be of some other model.
    """
    inner = plain_model(model)
    ids = torch.arange(1, 9, device=inner.device)[None] % inner.config.get_text_config().vocab_size
    steps = torch.arange(ids.shape[1], device=ids.device)[None]
    with _autocast(inner):
        expected = inner(input_ids=ids, use_cache=False).logits[0].float()
    got = head_logits(model, hidden_states(model, TokenRows(ids, steps, torch.zeros_like(ids)))[0])
    limit = 1e-3 if inner.dtype == torch.float32 else 0.05
    worst = (got - expected).abs().max().item() / max(1.0, expected.abs().max().item())
    if worst > limit:
        raise ModelError(
            f"{type(inner).__name__} computes its logits in a way that hotfix doesn't know (they differ by {worst:.2g} "
            "of the largest); please report the model's name"
        )


def _autocast(model: PreTrainedModel) -> contextlib.AbstractContextManager[object]:
    """Multiply in the base's own precision; adapters stay in float32, which small updates need."""
    if model.dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(model.device.type, dtype=model.dtype)

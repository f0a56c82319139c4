"""Attention by plain matrix products, for a while, where torch's own kernel is slower: on a CPU.

In bfloat16 the blocked kernel multiplies with another, slower unit than matrix products do, and its backward pass is
made for long texts: for rows of 100 tokens the products take a fifth of its time, for 400 half. In float32 they win
where a gradient is wanted of short rows, or where few tokens are new, as when a text is continued. transformers copies
each key head to all of the query heads that share it besides; here these are rows of one product.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["plain_products"]

_NAME = "hotfix_plain_products"
_FEW = 8  # new tokens
_SHORT = 128  # tokens of a row
_ROOM = 1 << 26  # weights made at once


@contextmanager
def plain_products(model: PreTrainedModel) -> Iterator[None]:
    """Let a model on a CPU attend so for a while, if it uses torch's attention; long rows in float32 still do."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    # Others (Falcon) read the name to choose among ways of their own.
    if before == "sdpa" and model.device.type == "cpu" and model._supports_attention_backend:
        config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


class _Products(torch.autograd.Function):
    """softmax(scale Q K^T) V; what is kept for the backward pass doesn't grow with the square of a long row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:  # noqa: ANN401
        """Attend: [B, H, Q, D], twice [B, G, K, D], and what may be seen or is added, [B or 1, 1, Q, K]."""
        batch, heads, new, width = query.shape
        groups, length = key.shape[1:3]
        q = (query * scale).reshape(batch * groups, -1, width)
        k, v = (part.reshape(batch * groups, length, -1) for part in (key, value))
        weights = _weights(q, k, mask, (batch, groups, new))
        ctx.shape, ctx.scale = (batch, groups, new), scale
        ctx.save_for_backward(q, k, v, mask, weights if length <= _SHORT else None)
        return (weights @ v).view(batch, heads, new, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients of query, key and value, where they are asked for."""
        q, k, v, mask, weights = ctx.saved_tensors
        weights = _weights(q, k, mask, ctx.shape) if weights is None else weights
        wanted, (batch, groups, new) = ctx.needs_input_grad, ctx.shape
        own = grad.reshape(*q.shape[:2], -1)
        of_value = (weights.mT @ own).view(batch, groups, *v.shape[1:]) if wanted[2] else None
        of_scores = torch._softmax_backward_data(own @ v.mT, weights, -1, weights.dtype)
        of_query = (of_scores @ k * ctx.scale).view(batch, -1, new, k.shape[2]) if wanted[0] else None
        of_key = (of_scores.mT @ q).view(batch, groups, *k.shape[1:]) if wanted[1] else None
        return of_query, of_key, of_value, None, None


def _weights(q: Tensor, k: Tensor, mask: Tensor | None, shape: tuple[int, int, int]) -> Tensor:
    """Return how much each query attends to each key, [B G, S Q, K], for S query heads that share a key head."""
    scores = q @ k.mT
    if mask is not None:
        batch, groups, new = shape
        each = scores.view(batch, groups, -1, new, k.shape[1])
        if mask.dtype == torch.bool:
            each.masked_fill_(~mask[:, :, None], torch.finfo(scores.dtype).min)
        else:
            each.add_(mask[:, :, None])
    return scores.softmax(-1)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,  # noqa: ANN401  what transformers passes on
) -> tuple[Tensor, None]:
    """Attend as `sdpa_attention_forward` does: [B, H, Q, D] and twice [B, G, K, D] -> [B, Q, H, D]."""
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (part.to(torch.get_autocast_dtype("cpu")) for part in (query, key, value))
    if not _known(module, attention_mask, options) or not _faster(query, key):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    new, length = query.shape[2], key.shape[2]
    causal = options.get("is_causal")
    if attention_mask is None and new > 1 and (getattr(module, "is_causal", True) if causal is None else causal):
        attention_mask = torch.ones(1, 1, new, length, dtype=torch.bool, device=query.device).tril()
    scale = options.get("scaling")
    made = (query, key, value, attention_mask, query.shape[3] ** -0.5 if scale is None else scale)
    found = cast("Tensor", _Products.apply(*made))  # type: ignore[no-untyped-call]
    return found.transpose(1, 2).contiguous(), None


def _known(module: nn.Module, mask: Tensor | None, options: dict[str, Any]) -> bool:
    """Whether nothing is asked for but scores, scaled and masked, the mask the same for all heads."""
    others = [name for name in ("position_bias", "softcap", "cache") if options.get(name) is not None]
    dropped = module.training and options.get("dropout")
    return not others and not dropped and (mask is None or mask.shape[1] == 1)


def _faster(query: Tensor, key: Tensor) -> bool:
    new, length = query.shape[2], key.shape[2]
    if query.shape[0] * query.shape[1] * new * length > _ROOM:
        return False
    if query.dtype == torch.bfloat16:
        return True
    return query.dtype == torch.float32 and (new <= _FEW or (length <= _SHORT and torch.is_grad_enabled()))


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)

"""Attention of one new token where several query heads share a key head.

transformers copies each key head to all of its query heads before torch's attention sees them. While a prompt is read
that is little beside the rest; while completions grow a token at a time, on a CPU, it is half of a step. With the
sharing heads laid out as queries of one head, nothing is copied, and what is computed is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["shared_heads"]

_NAME = "hotfix_shared_heads"


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,  # noqa: ANN401  what transformers passes on
) -> tuple[Tensor, None]:
    """Attend as `sdpa_attention_forward` does: [B, H, Q, D] and twice [B, H / shares, L, D] -> [B, Q, H, D]."""
    batch, heads, length, width = query.shape
    shares = heads // key.shape[1]
    if length != 1 or shares == 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    together = query.reshape(batch, key.shape[1], shares, width)
    mask = None if attention_mask is None else attention_mask.expand(-1, -1, shares, -1)
    found = F.scaled_dot_product_attention(together, key, value, attn_mask=mask, scale=options.get("scaling"))
    return found.reshape(batch, 1, heads, width), None


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)


@contextmanager
def shared_heads(model: PreTrainedModel) -> Iterator[None]:
    """Let a model on a CPU attend so for a while, if it uses torch's attention."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    if before == "sdpa" and model.device.type == "cpu":
        config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before

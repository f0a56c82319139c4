"""Tokens from logits: each completion has its own stream of random numbers, turned into tokens by inverse CDF."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hotfix.errors import ModelError
from hotfix.generation.config import SamplingConfig

__all__ = ["Drawn", "draw_tokens", "inverse_cdf", "truncate", "uniform_stream"]

UINT64_MASK = 2**64 - 1
NUCLEUS_WIDTH = 256


class Drawn(NamedTuple):
    """One new token for each row: ``token_ids`` int64 [B] and ``log_probs`` float32 [B], at temperature 1, in nats."""

    token_ids: Tensor
    log_probs: Tensor


def uniform_stream(seed: int, prompt_index: int, sample_index: int, length: int) -> Tensor:
    """Returns float64 [length] in [0, 1): the randomness of one completion, from a counter-based generator.

    It depends on the first three numbers only, and a longer stream starts with the shorter one.

    >>> uniform_stream(1, 2, 3, 5)[:2].equal(uniform_stream(1, 2, 3, 2))
    True
    >>> uniform_stream(1, 2, 3, 2).equal(uniform_stream(1, 3, 2, 2))
    False
    """
    key = np.array([seed & UINT64_MASK, prompt_index << 32 | sample_index], dtype=np.uint64)
    return torch.from_numpy(np.random.Generator(np.random.Philox(key=key)).random(length))


def truncate(probs: Tensor, top_k: int, top_p: float) -> Tensor:
    """Returns ``probs`` [B, V] with the tokens outside the ``top_k`` and then outside the nucleus set to 0.

    What is left is not normalized. Tokens that tie at a border are kept.

    >>> truncate(torch.tensor([[0.5, 0.1, 0.4]]), top_k=2, top_p=1.0)
    tensor([[0.5000, 0.0000, 0.4000]])
    >>> truncate(torch.tensor([[0.5, 0.1, 0.4]]), top_k=0, top_p=0.45)
    tensor([[0.5000, 0.0000, 0.0000]])
    """
    if 0 < top_k < probs.shape[-1]:
        probs = probs.where(probs >= probs.topk(top_k).values[:, -1:], 0.0)
    if top_p < 1:
        probs = probs.where(probs >= _nucleus_border(probs, top_p * probs.sum(-1, keepdim=True)), 0.0)
    return probs


def _nucleus_border(probs: Tensor, mass: Tensor) -> Tensor:
    """Returns [B, 1], the smallest probability in the smallest set of likeliest tokens that has ``mass`` [B, 1]."""
    likeliest = probs.topk(min(NUCLEUS_WIDTH, probs.shape[-1])).values
    # Sorting a whole vocabulary costs as much as the model; a nucleus is nearly always within its first few tokens.
    if bool((likeliest.sum(-1, keepdim=True) < mass).any()):
        likeliest = probs.sort(descending=True).values
    mass_before = likeliest.cumsum(-1) - likeliest
    size = (mass_before < mass).sum(-1, keepdim=True)
    return likeliest.gather(-1, size - 1)


def inverse_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Returns int64 [B], one index for each row of ``weights`` [B, V], drawn by its number in ``uniforms`` [B].

    An index is drawn in proportion to its weight, and never if that is 0.

    >>> inverse_cdf(torch.tensor([[0.0, 2.0, 0.0, 6.0, 0.0]]).expand(4, 5), torch.tensor([0.0, 0.2, 0.3, 1.0]))
    tensor([1, 1, 3, 3])
    """
    cdf = weights.cumsum(-1, dtype=torch.float64)
    total = cdf[:, -1:]
    target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cdf, target, right=True)[:, 0]


def draw_tokens(logits: Tensor, uniforms: Tensor, config: SamplingConfig) -> Drawn:
    """Draws a token for each row of ``logits`` [B, V] by its number in ``uniforms`` [B].

    Raises:
        ModelError: a row has no distribution.
    """
    log_probs = logits.float().log_softmax(-1)
    if config.temperature == 0:
        token_ids = log_probs.argmax(-1)
    else:
        probs = log_probs.exp() if config.temperature == 1 else (log_probs / config.temperature).softmax(-1)
        token_ids = inverse_cdf(truncate(probs, config.top_k, config.top_p), uniforms)
    drawn = log_probs.gather(-1, token_ids.clamp(max=logits.shape[-1] - 1)[:, None])[:, 0]
    if bool(drawn.isnan().any()):
        raise ModelError("the model's logits are not finite; its weights are damaged, or training has diverged")
    return Drawn(token_ids, drawn)

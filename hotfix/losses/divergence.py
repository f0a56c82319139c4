"""The divergence of two models that share a head, from their hidden states; no [N, V] matrix outlives a chunk.

The head is applied to the *difference* of the states. Two sets of bfloat16 logits are each rounded to a sixteenth or an
eighth, which hides divergences below 0.001 nats; a small difference keeps its digits. The gradient is found on the way
forward, by its closed form, as Liger's fused losses do (https://arxiv.org/abs/2410.10989).
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotfix.functional import shifted_kl

__all__ = ["head_divergence"]

_CHUNK = 256  # positions at once: 256 x 49,152 words x 4 bytes = 50 MB a matrix


def head_divergence(head: nn.Linear, base: Tensor, policy: Tensor, reverse: bool = False) -> Tensor:
    """Return KL(base || policy) of each position, in nats, with the gradient of the policy's states.

    Args:
        head: frozen, of both.
        base: last hidden states, [N, D].
        policy: likewise, with a gradient.
        reverse: KL(policy || base) instead.

    Returns:
        float32 [N].
    """
    operands = policy - base, base, head.weight, head.bias, reverse
    return cast("Tensor", _HeadDivergence.apply(*operands))  # type: ignore[no-untyped-call]


class _HeadDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  torch's own context
        difference: Tensor,
        base: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        reverse: bool,
    ) -> Tensor:
        found, gradients = [], []
        for own, other in zip(difference.split(_CHUNK), base.split(_CHUNK), strict=True):
            logits = F.linear(other.to(weight.dtype), weight, bias).float()
            shift = F.linear(own.to(weight.dtype), weight).float()
            kl, gradient = shifted_kl(logits, shift, reverse)
            found.append(kl)
            gradients.append((gradient.to(weight.dtype) @ weight).to(difference.dtype))
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # noqa: ANN401
        (gradient,) = ctx.saved_tensors
        return gradient * grad[:, None], None, None, None, None

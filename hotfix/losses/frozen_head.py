"""What losses take from hidden states through a head that doesn't train; no [N, V] matrix outlives a chunk.

Gradients are found on the way forward, by their closed forms, as Liger's fused losses do
(https://arxiv.org/abs/2410.10989).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotfix.functional import shifted_kl

__all__ = ["head_divergence", "head_log_probs"]

_CHUNK = 256  # positions that the head is applied to at once: 256 x 49,152 words in bfloat16 = 25 MB a matrix
# Positions whose words are looked at together on a CPU. Some megabytes stay in its cache and in memory that the process
# has; larger ones halve the speed in page faults, unless the allocator was told to keep memory (hotfix.allocator).
_FEW = 8
_Context: TypeAlias = Any  # torch's own


def head_log_probs(head: nn.Linear, states: Tensor, tokens: Tensor) -> Tensor:
    """Return log p of each token, in nats, with the gradient of the states.

    Args:
        head: frozen.
        states: last hidden states, [N, D].
        tokens: int64 [N].

    Returns:
        float32 [N].
    """
    operands = states, tokens, head.weight, head.bias
    return cast("Tensor", _LogProbs.apply(*operands))  # type: ignore[no-untyped-call]


def head_divergence(head: nn.Linear, base: Tensor, policy: Tensor, reverse: bool = False) -> Tensor:
    """Return KL(base || policy) of each position, in nats, with the gradient of the policy's states.

    The head is applied to the *difference* of the states. Two sets of bfloat16 logits are each rounded to a sixteenth
    or an eighth, which hides divergences below 0.001 nats; a small difference keeps its digits.

    Args:
        head: frozen, of both.
        base: last hidden states, [N, D].
        policy: likewise, with a gradient.
        reverse: KL(policy || base) instead.

    Returns:
        float32 [N].
    """
    operands = policy - base, base, head.weight, head.bias, reverse
    return cast("Tensor", _Divergence.apply(*operands))  # type: ignore[no-untyped-call]


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, states: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        found, gradients = [states.new_zeros(0, dtype=torch.float32)], [states.new_zeros(0, states.shape[-1])]
        for own, wanted in zip(states.split(_CHUNK), tokens.split(_CHUNK), strict=True):
            logits = F.linear(own.to(weight.dtype), weight, bias)
            for few in _slices(logits):
                log_p = logits[few].float().log_softmax(-1)
                column = wanted[few, None]
                found.append(log_p.gather(-1, column)[:, 0])
                if ctx.needs_input_grad[0]:
                    # Of the token's own logit 1 - p, of any other -p; written where the logits were.
                    gradient = log_p.exp_().neg_()
                    logits[few] = gradient.scatter_add_(-1, column, torch.ones_like(column, dtype=torch.float32))
            if ctx.needs_input_grad[0]:
                gradients.append((logits @ weight).to(states.dtype))
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(found)

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _by_position(ctx, grad), None, None, None


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context, difference: Tensor, base: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool
    ) -> Tensor:
        found, gradients = [base.new_zeros(0, dtype=torch.float32)], [difference.new_zeros(0, difference.shape[-1])]
        for own, other in zip(difference.split(_CHUNK), base.split(_CHUNK), strict=True):
            logits = F.linear(other.to(weight.dtype), weight, bias)
            shift = F.linear(own.to(weight.dtype), weight)
            for few in _slices(logits):
                kl, gradient = shifted_kl(logits[few].float(), shift[few].float(), reverse)
                found.append(kl)
                shift[few] = gradient
            gradients.append((shift @ weight).to(difference.dtype))
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(found)

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        return _by_position(ctx, grad), None, None, None, None


def _by_position(ctx: _Context, grad: Tensor) -> Tensor:
    """Scale each position's gradient by that of its number: [N] -> [N, D]."""
    (gradient,) = ctx.saved_tensors
    return cast("Tensor", (gradient * grad[:, None]).to(gradient.dtype))


def _slices(logits: Tensor) -> Iterator[slice]:
    """Cut the rows of [N, V] up."""
    size = _FEW if logits.device.type == "cpu" else max(1, len(logits))
    return (slice(start, start + size) for start in range(0, len(logits), size))

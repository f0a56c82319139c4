"""Token-level arithmetic, pure; every reduction says over what."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["log1mexp", "shifted_kl", "token_kl", "token_log_probs"]


def token_log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return log p of each token: float32 logits [N, V], int64 tokens [N] -> [N], in nats.

    >>> token_log_probs(torch.zeros(1, 4), torch.tensor([2])).exp()
    tensor([0.2500])
    """
    # logsumexp instead of log_softmax: one number a row is kept for backward, not another [N, V].
    return logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)


def token_kl(reference_logits: Tensor, logits: Tensor) -> Tensor:
    """Return KL(reference || policy) of each position: two [N, V] -> [N], in nats; the gradient is the policy's.

    >>> token_kl(torch.zeros(1, 4), torch.zeros(1, 4))
    tensor([0.])
    """
    reference = reference_logits.log_softmax(-1)
    return (reference.exp() * (reference - logits.log_softmax(-1))).sum(-1)


def shifted_kl(reference_logits: Tensor, shift: Tensor, reverse: bool = False) -> Tensor:
    """Return KL(softmax(l) || softmax(l + shift)) of each position: two float32 [N, V] -> [N], in nats.

    Args:
        reference_logits: l.
        shift: what is added.
        reverse: the divergence the other way round.

    >>> shifted_kl(torch.zeros(1, 4), torch.full((1, 4), 3.0)).abs() < 1e-6
    tensor([True])
    """
    # Shifts by a constant change nothing, so the mean is taken off, and small shifts give sums of small numbers.
    reference = reference_logits.softmax(-1)
    shift = (shift - (reference * shift).sum(-1, keepdim=True)).clamp(max=80.0)  # e^80 is a float32
    log_mean = torch.log1p((reference * torch.expm1(shift)).sum(-1))
    if not reverse:
        return log_mean
    return (reference * shift * torch.exp(shift - log_mean[:, None])).sum(-1) - log_mean


def log1mexp(log_p: Tensor) -> Tensor:
    """Return log(1 - p) for log p <= 0 without losing digits at either end (Maechler 2012).

    >>> log1mexp(torch.tensor([-0.6931472])).exp()
    tensor([0.5000])
    """
    # Below the largest float32 under 1, or log(1 - p) is minus infinity and its gradient too.
    log_p = log_p.clamp(max=-1e-6)
    near_one = log_p > -0.6931472
    # Both branches are evaluated, so each is fed a harmless value where the other is taken: NaN gradients otherwise.
    small = torch.log(-torch.expm1(torch.where(near_one, log_p, -1.0)))
    large = torch.log1p(-torch.exp(torch.where(near_one, -1.0, log_p)))
    return torch.where(near_one, small, large)

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


def shifted_kl(reference_logits: Tensor, shift: Tensor, reverse: bool = False) -> tuple[Tensor, Tensor]:
    """Return KL(softmax(l) || softmax(l + shift)) of each position in nats, and its gradient by the shift.

    Args:
        reference_logits: l, float32 [N, V].
        shift: what is added, [N, V].
        reverse: the divergence the other way round.

    Returns:
        [N] and [N, V].

    >>> kl, gradient = shifted_kl(torch.zeros(1, 4), torch.full((1, 4), 3.0))
    >>> kl.abs().item() < 1e-6, gradient.abs().max().item() < 1e-6
    (True, True)
    """
    # Shifts by a constant change nothing, so the mean is taken off, and small shifts give sums of small numbers.
    reference = reference_logits.softmax(-1)
    shift = (shift - (reference * shift).sum(-1, keepdim=True)).clamp_(max=80.0)  # e^80 is a float32
    gained = torch.expm1(shift).mul_(reference)
    over = gained.sum(-1, keepdim=True)
    log_mean = torch.log1p(over)
    moved = gained.sub_(reference * over).div_(1 + over)  # policy - reference
    if not reverse:
        return log_mean[:, 0], moved
    kl = (moved * shift).sum(-1, keepdim=True) - log_mean
    return kl[:, 0], (moved + reference).mul_(shift - log_mean - kl)


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

"""Arithmetic of tokens and of second moments, pure; every reduction says over what."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["generalised_eigenvectors", "log1mexp", "shifted_kl", "token_kl", "token_log_probs"]

_ITERATIONS = 20


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


def generalised_eigenvectors(numerator: Tensor, denominator: Tensor, count: int, ridge: float) -> Tensor:
    """Return the directions a in which a N a^T / a (D + ridge) a^T is largest, each with that denominator at 1.

    Args:
        numerator: N, symmetric [W, W].
        denominator: D, symmetric and nowhere negative [W, W].
        count: how many, at most W.
        ridge: added to D's diagonal, as a share of its mean.

    Returns:
        [count, W], the largest ratio last.

    >>> found = generalised_eigenvectors(torch.diag(torch.tensor([1.0, 3.0])), torch.eye(2), 1, ridge=0.0)
    >>> found.abs().round(decimals=3)
    tensor([[0., 1.]])
    """
    identity = torch.eye(len(denominator), device=denominator.device)
    lower = torch.linalg.cholesky(denominator + (ridge * denominator.diagonal().mean() + 1e-12) * identity)
    half = torch.linalg.solve_triangular(lower, numerator, upper=False)
    whitened = torch.linalg.solve_triangular(lower, half.T, upper=False)
    leading = _leading_eigenvectors((whitened + whitened.T) / 2, count)
    found: Tensor = torch.linalg.solve_triangular(lower.T, leading, upper=True).T
    return found


def _leading_eigenvectors(symmetric: Tensor, count: int) -> Tensor:
    """Return the eigenvectors of the largest eigenvalues, [W, count]: by subspace iteration, since few are wanted."""
    width = min(len(symmetric), 2 * count + 8)
    start = torch.randn(len(symmetric), width, generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(start.to(symmetric)).Q
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(symmetric @ basis).Q
    inner = torch.linalg.eigh(basis.T @ symmetric @ basis).eigenvectors
    found: Tensor = basis @ inner[:, -count:]
    return found

"""The change of smallest norm that maps keys to steers, in factors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Prior", "contradictions", "minimum_norm", "signed_step"]

_UNLIKE = 0.1


class Prior(NamedTuple):
    """A change of a matrix [O, I]: `coefficients.T @ keys`.

    Attributes:
        coefficients: float32 [N, O].
        keys: float32 [N, I].
    """

    coefficients: Tensor
    keys: Tensor

    def dense(self) -> Tensor:
        """Return the change, [O, I]."""
        return self.coefficients.T @ self.keys


def minimum_norm(keys: Tensor, steers: Tensor, ridge: float = 1e-6) -> Prior:
    """Solve Z X = S for the X of smallest norm, X = Z^T (Z Z^T + e I)^-1 S; the change is X^T.

    Args:
        keys: Z, float32 [N, I].
        steers: S, float32 [N, O].
        ridge: e, as a share of the mean of Z Z^T's diagonal; repeated keys have no solution without.

    >>> minimum_norm(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0]])).dense()
    tensor([[1.5000, 0.0000]])
    """
    wide = keys.double()
    gram = wide @ wide.T
    # Keys that are all zero ask for nothing.
    size = gram.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    gram = gram + ridge * size * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return Prior(torch.linalg.solve(gram, steers.double()).float(), keys)


def signed_step(prior: Tensor, gradient: Tensor) -> Tensor:
    """Return the prior's sizes with the signs of the way down; no move where there is no gradient.

    >>> signed_step(torch.tensor([[2.0, -3.0, 4.0]]), torch.tensor([[1.0, -1.0, 0.0]]))
    tensor([[-2.,  3., -0.]])
    """
    return -prior.abs() * gradient.sign()


def contradictions(prior: Prior, keys: Tensor, steers: Tensor) -> dict[int, int]:
    """Find steers that the solution can't give, and what stands in their way.

    Args:
        prior: the solution.
        keys: [N, I].
        steers: [N, O]; zero rows, which ask for nothing to move, can stand in the way but are not reported.

    Returns:
        Point -> the other point whose key is the most alike, where more than a tenth of the steer is missing.
    """
    if len(keys) < 2:
        return {}
    size = steers.norm(dim=1)
    missing = (keys @ prior.keys.T @ prior.coefficients - steers).norm(dim=1)
    unit = torch.nn.functional.normalize(keys, dim=1)
    alike = (unit @ unit.T).fill_diagonal_(-torch.inf).argmax(dim=1)
    wrong = (size > 0) & (missing > _UNLIKE * size)
    return {int(n): int(alike[n]) for n in wrong.nonzero()[:, 0]}

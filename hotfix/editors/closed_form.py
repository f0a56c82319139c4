"""One closed form for ROME, EMMET, MEMIT, AlphaEdit and PMET: which change of a matrix gives keys new values.

Among all changes of W [O, D] it is the one that minimises

    |R - dW K|^2 + mu tr(dW C dW^T)      K [D, r]: keys; R [O, r]: what they are to gain; C [D, D]: of ordinary keys

and it is dW = R (mu I + K^T C^-1 K)^-1 K^T C^-1. With a factor of C computed once, an edit costs O(D^2 r), not O(D^3).
MEMIT (https://arxiv.org/abs/2210.07229, eq. 14) has its lambda for mu; EMMET (https://arxiv.org/abs/2403.14236) and
ROME (https://arxiv.org/abs/2202.05262, eq. 2; r = 1) let mu go to 0; AlphaEdit (https://arxiv.org/abs/2410.02355, eq.
12) has a projector in the place of C^-1. Keys of earlier edits are columns of K that are to gain nothing.

Many keys at once, some nearly alike with different values, are fitted by changes as large as the matrix itself unless
mu is large, while one key wants a small mu. So mu may be found instead, from how far ordinary values may move: it is
the multiplier of the constraint tr(dW C dW^T) <= limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Factors", "LinearMap", "by_cholesky", "by_projector", "closed_form"]

LinearMap = Callable[[Tensor], Tensor]


class Factors(NamedTuple):
    """A change of rank r: `left @ right`.

    Attributes:
        left: float32 [O, r].
        right: float32 [r, D].
    """

    left: Tensor
    right: Tensor


def by_cholesky(factor: Tensor) -> LinearMap:
    """Return K -> C^-1 K for C = L L^T: float64 [D, D], then [D, r] -> [D, r].

    >>> by_cholesky(torch.tensor([[2.0]]).double())(torch.tensor([[8.0]]).double())
    tensor([[2.]], dtype=torch.float64)
    """

    def solved(keys: Tensor) -> Tensor:
        # Not torch.cholesky_solve: it copies the factor first, ten times the work of both substitutions for one key.
        half = torch.linalg.solve_triangular(factor, keys, upper=False)
        whole: Tensor = torch.linalg.solve_triangular(factor.mT, half, upper=True)
        return whole

    return solved


def by_projector(basis: Tensor) -> LinearMap:
    """Return K -> U U^T K for an orthonormal basis U: float64 [D, m], then [D, r] -> [D, r].

    >>> by_projector(torch.tensor([[1.0], [0.0]]).double())(torch.tensor([[3.0], [4.0]]).double())
    tensor([[3.],
            [0.]], dtype=torch.float64)
    """
    return lambda keys: basis @ (basis.T @ keys)


def closed_form(
    inverse: LinearMap,
    keys: Tensor,
    gain: Tensor,
    mu: float,
    kept: Tensor | None = None,
    relative: bool = False,
    limit: float | None = None,
) -> Factors:
    """Return the change that gives keys new values, solved in float64.

    Args:
        inverse: K -> C^-1 K in float64; see the module.
        keys: K [D, r].
        gain: R [O, r], by how much the values at the keys are to change.
        mu: how dear it is to change what ordinary keys give; 0 fits the keys exactly.
        kept: keys whose values are to stay, [D, p].
        relative: whether mu is in units of the mean of k^T C^-1 k over the keys.
        limit: the most that tr(dW C dW^T) may be, above 0; mu is raised until it is. With a projector P for C^-1 it is
            |dW|^2. None for no limit.

    >>> one = closed_form(lambda k: k, torch.tensor([[2.0]]), torch.tensor([[6.0]]), mu=0)
    >>> one.left @ one.right
    tensor([[3.]])
    """
    count = keys.shape[1]
    every = keys.double() if kept is None else torch.cat([keys.double(), kept.to(keys.device).double()], dim=1)
    spread = inverse(every)
    gram = every.T @ spread
    gram = (gram + gram.T) / 2
    unit = float(gram.diagonal()[:count].mean()) if relative else 1.0
    # Two equal keys would make the matrix singular where mu is 0; this is far below what float32 keeps.
    least = 1e-12 * float(gram.diagonal().mean())
    ridge = mu * unit + least
    if limit is not None:
        ridge = _raised(gram, F.pad(gain.double(), (0, len(gram) - count)), ridge, limit)
    gram.diagonal().add_(ridge)
    rows = torch.linalg.solve(gram, spread.T)[:count]
    return Factors(gain.float(), rows.float())


def _raised(gram: Tensor, gain: Tensor, ridge: float, limit: float) -> float:
    """Return the least ridge, not below a given one, with which a change keeps within a limit: [r, r], [O, r] -> ...

    With G = Q diag(l) Q^T, tr(dW C dW^T) is the sum of |R q|^2 l / (l + ridge)^2, which falls as the ridge grows.
    """
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp(min=0)
    weights = ((gain @ vectors).square().sum(0) * values).cpu()
    values = values.cpu()

    def size(ridge: float) -> float:
        return float((weights / (values + ridge).square()).sum())

    if size(ridge) <= limit:
        return ridge
    low, high = ridge, math.sqrt(float(weights.sum()) / limit)
    while high > (1 + 1e-6) * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if size(middle) <= limit else (middle, high)
    return high

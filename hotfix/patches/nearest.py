"""Which of many keys a query falls on: exact, but most keys are ruled out from a few of their dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["NearestKey"]

_DIRECTIONS = 64
_AT_ONCE = 1 << 22


class NearestKey:
    """Balls around keys, to be looked up; distances are Euclidean, in float32.

    A query can be no nearer to a key than it is within some orthonormal directions. With 64 of them, chosen as those in
    which the keys differ most, nearly every key is ruled out, at a small part of the price of whole distances.

    Args:
        keys: [n, D].
        radii: [n]; a ball of negative radius holds nothing.

    >>> table = NearestKey(torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([1.0, 1.9]))
    >>> table.find(torch.tensor([[0.5, 0.0], [1.3, 0.0], [0.0, 1.5]])).tolist()
    [0, 1, -1]
    """

    def __init__(self, keys: Tensor, radii: Tensor) -> None:
        self._keys, self._radii = keys.float(), radii.float()
        self._middle = self._keys.mean(dim=0) if len(keys) else keys.new_zeros(keys.shape[1])
        self._directions = _main_directions(self._keys - self._middle, _DIRECTIONS)
        short = (self._keys - self._middle) @ self._directions  # [n, d]
        self._short = short.T.contiguous()
        self._squares = short.square().sum(dim=1)
        self._limits = self._radii.clamp(min=0).square()
        # Ruled out whatever the distance.
        self._limits[self._radii < 0] = -torch.inf

    def find(self, queries: Tensor) -> Tensor:
        """Return the nearest of the keys whose ball holds each query: [N, D] -> int64 [N], -1 where there is none."""
        found = queries.new_full((len(queries),), -1, dtype=torch.long)
        if not len(self._keys):
            return found
        size = max(1, _AT_ONCE // len(self._keys))
        for start in range(0, len(queries), size):
            self._find(queries[start : start + size].float(), found[start : start + size])
        return found

    def _find(self, queries: Tensor, found: Tensor) -> None:
        """Fill in the keys of some queries."""
        short = (queries - self._middle) @ self._directions
        own = short.square().sum(dim=1, keepdim=True)
        bounds = own + self._squares - 2 * short @ self._short  # [N, n]
        # The sum of squares is rounded; nothing that is near may be lost to that.
        near = bounds <= self._limits + 1e-5 * (own + self._squares)
        if not bool(near.any()):
            return
        rows, columns = near.any(dim=1).nonzero()[:, 0], near.any(dim=0).nonzero()[:, 0]
        # By differences, not by products: the two are close, and far from zero.
        distances = torch.cdist(
            queries[rows], self._keys[columns], compute_mode="donot_use_mm_for_euclid_dist"
        )  # [rows, columns]
        best, place = distances.masked_fill(distances > self._radii[columns], torch.inf).min(dim=1)
        found[rows] = columns[place].where(best.isfinite(), -1)


def _main_directions(centred: Tensor, count: int) -> Tensor:
    """Return orthonormal directions in which rows vary most, nearly: [n, D] -> [D, d] with d at most `count`.

    >>> _main_directions(torch.tensor([[0.0, 2.0], [0.0, -2.0]]), 1).abs().round()
    tensor([[0.],
            [1.]])
    """
    width = centred.shape[1]
    if width <= count:
        return torch.eye(width, device=centred.device)
    generator = torch.Generator().manual_seed(0)
    guess = torch.randn(width, count, generator=generator).to(centred.device)
    for _ in range(2):
        # Without any spread there is nothing to go by, and any directions do.
        guess = torch.linalg.qr(centred.T @ (centred @ guess) + 1e-6 * guess).Q
    return guess

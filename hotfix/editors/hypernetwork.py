"""MALMEN's hyper-network: keys and gradients in, pseudo keys and pseudo gradients out, one network a weight shape.

Tan et al. 2024 (https://arxiv.org/abs/2311.04661). A token's value is -eta (k . k~) g~, and a matrix's change is the
ridge solution that turns keys into values.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from hotfix.editors.answer_states import AnswerStates, ridge_solution

__all__ = ["HyperNetwork", "RidgeGradient", "ridge_gradient"]


class RidgeGradient(NamedTuple):
    """Where a loss leads through the ridge solution.

    Attributes:
        values: gradient of the values, [N, H].
        ridge: of the ridge, [].
    """

    values: Tensor
    ridge: Tensor


def ridge_gradient(keys: Tensor, values: Tensor, ridge: Tensor, gradient: Tensor) -> RidgeGradient:
    """Carry the gradient of a matrix's change back to the values and the ridge that gave it.

    With A = (K K^T + ridge)^-1 and the change V^T A K, they are A K G^T and -<A V, A K G^T>: MALMEN's equations, turned
    to the side of the tokens, where the matrix to invert is [N, N].

    Args:
        keys: float64 [N, D].
        values: float64 [N, H].
        ridge: more than 0, [].
        gradient: G of the change, [H, D].

    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> found = ridge_gradient(one, 4 * one, torch.tensor(1.0), one)
    >>> round(found.values.item(), 6), round(found.ridge.item(), 6)
    (0.5, -1.0)
    """
    of_values = ridge_solution(keys, keys @ gradient.to(keys.dtype).T, ridge).T
    return RidgeGradient(of_values, -(ridge_solution(keys, values, ridge).T * of_values).sum())


class HyperNetwork(nn.Module):
    """Edits matrices of one shape [H, D]; at the start pseudo keys and gradients are the normalised ones.

    Keys and gradients of each matrix are normalised by themselves: those of a model's last block are ten times as large
    as those of the blocks below.

    Args:
        key_width: D.
        value_width: H.
        matrices: how many matrices share the network; each has its own scales, shifts, step size and ridge.
        rank: of the residual blocks' products.
        blocks: how many residual blocks.
        eta: step size at the start.
        generator: of the first weights.
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        key_width: int,
        value_width: int,
        matrices: int,
        rank: int,
        blocks: int,
        eta: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        width = key_width + value_width
        self.widths = (key_width, value_width)
        self.blocks = nn.ModuleList(_Block(width, matrices, rank, generator) for _ in range(blocks))
        # The paper learns eta itself, from 1e-6 in steps of 1e-5, which lets it change its sign.
        self.log_eta = nn.Parameter(torch.full((matrices,), math.log(eta)))
        self.log_ridge = nn.Parameter(torch.zeros(matrices))
        self.register_buffer("mean", torch.zeros(matrices, width))
        self.register_buffer("spread", torch.ones(matrices, width))

    def normalise_by(self, matrix: int, mean: Tensor, variance: Tensor) -> None:
        """Fix what a matrix's rows are normalised with, [D + H] each; no edit moves it."""
        self.mean[matrix] = mean
        # A feature that never moved has no spread, and stays at 0.
        self.spread[matrix] = torch.where(variance > 0, variance.sqrt(), torch.inf)

    def forward(self, key: Tensor, gradient: Tensor, matrix: int) -> tuple[Tensor, Tensor]:
        """Return pseudo keys and pseudo gradients: [N, D], [N, H] -> the same shapes."""
        rows = (torch.cat([key, gradient], dim=1) - self.mean[matrix]) / self.spread[matrix]
        for block in self.blocks:
            rows = block(rows, matrix)
        pseudo_key, pseudo_gradient = rows.split(self.widths, dim=1)
        return pseudo_key, pseudo_gradient

    def values(self, states: AnswerStates, matrix: int) -> Tensor:
        """Return what each token's key is to be turned into, [N, H]."""
        pseudo_key, pseudo_gradient = self(states.key, states.gradient, matrix)
        size = (states.key * pseudo_key).sum(1, keepdim=True)
        return cast("Tensor", -self.log_eta[matrix].exp() * size * pseudo_gradient)

    def ridge(self, matrix: int) -> Tensor:
        """The weight of the change's own size, []."""
        return self.log_ridge[matrix].exp()

    @torch.no_grad()
    def left(self, states: AnswerStates, matrix: int) -> Tensor:
        """Return the left factor of the change, float64 [H, N]; the right one is the keys."""
        values = self.values(states, matrix).double()
        return ridge_solution(states.key.double(), values, self.ridge(matrix).double())

    def pull(self, states: AnswerStates, matrix: int, gradient: Tensor, chunk: int) -> None:
        """Add to the network's gradients what a gradient of the change asks of it.

        The language model's pass is over and its graph gone; here only `chunk` tokens' graph is held at once.

        Args:
            states: of the edit's tokens.
            matrix: whose.
            gradient: of the change, [H, D].
            chunk: tokens at once.
        """
        with torch.no_grad():
            keys, values = states.key.double(), self.values(states, matrix).double()
            found = ridge_gradient(keys, values, self.ridge(matrix).double(), gradient)
        (found.ridge.to(states.key.dtype) * self.ridge(matrix)).backward()
        parts = zip(states.key.split(chunk), states.gradient.split(chunk), found.values.split(chunk), strict=True)
        for key, descent, wanted in parts:
            (wanted.to(key.dtype) * self.values(AnswerStates(key, descent), matrix)).sum().backward()


class _Block(nn.Module):
    """y + s * relu(y A B + b) + t, with s and t of each matrix."""

    def __init__(self, width: int, matrices: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(width, rank, generator=generator) / width**0.5)
        self.up = nn.Parameter(torch.zeros(rank, width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(matrices, width))
        self.shift = nn.Parameter(torch.zeros(matrices, width))

    def forward(self, rows: Tensor, matrix: int) -> Tensor:
        # Not relu: B starts at 0, where relu's gradient is 0 and nothing would ever be learnt; that of clamp is 1.
        bent = (rows @ self.down @ self.up + self.bias).clamp(min=0)
        return rows + self.scale[matrix] * bent + self.shift[matrix]

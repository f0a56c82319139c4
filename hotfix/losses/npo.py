"""Negative preference optimisation (Zhang et al. 2024, https://arxiv.org/abs/2404.05868)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from hotfix.losses.base import LossTerm
from hotfix.losses.passes import Passes
from hotfix.losses.sequences import PairSide, example_ids, sum_by_example
from hotfix.types import TokenScope

__all__ = ["NPO", "npo"]


def npo(log_ratio: Tensor, beta: float) -> Tensor:
    """Return -(2 / beta) log sigmoid(-beta log(p / p_base)) of each sequence: nats [E] -> nats [E].

    >>> import torch
    >>> npo(torch.tensor([0.0, -1000.0]), beta=2.0)
    tensor([0.6931, -0.0000])
    """
    return -(2 / beta) * F.logsigmoid(-beta * log_ratio)


class NPO(LossTerm):
    """Mean over pairs of equation 3 of the paper, on the summed log-probs of a side's tokens in scope, in nats a pair.

    Gradient ascent whose push fades as the sequence gets less likely than the base had it: at the base the gradient is
    that of the summed log p (2 log 2 / beta is the value there), far below it nearly none.

    Args:
        side: whose tokens.
        scope: which of them; the paper takes all, `edited` spares what both sides share.
        beta: 1 over the number of nats, below the base, within which the push fades; towards 0 it is gradient ascent.
        weight: factor of the term in the objective.
    """

    def __init__(
        self, side: PairSide = "buggy", scope: TokenScope = "edited", beta: float = 0.1, weight: float = 1.0
    ) -> None:
        super().__init__(weight)
        self._more_than_zero(beta=beta)
        self.side: PairSide = side
        self.scope: TokenScope = scope
        self.beta = beta

    def forward(self, passes: Passes) -> Tensor:
        """Return the mean over the step's pairs."""
        rows = passes.rows(self.side, self.scope)
        log_ratio = passes.log_probs(self.side, self.scope) - passes.reference_log_probs(self.side, self.scope)
        return passes.example_mean(npo(sum_by_example(log_ratio, rows, example_ids(rows)), self.beta))

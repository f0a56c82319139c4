"""Simple negative preference optimisation, without a reference (Fan et al. 2024, https://arxiv.org/abs/2410.07163)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from hotfix.losses.base import LossTerm
from hotfix.losses.passes import Passes
from hotfix.losses.sequences import PairSide, example_ids, mean_by_example
from hotfix.types import TokenScope

__all__ = ["SimNPO", "simnpo"]


def simnpo(nll: Tensor, beta: float, delta: float) -> Tensor:
    """Return -(2 / beta) log sigmoid(beta (nll - delta)) of each sequence's mean NLL: nats a token [E] -> [E].

    >>> import torch
    >>> simnpo(torch.tensor([1.0, 1000.0]), beta=2.0, delta=1.0)
    tensor([0.6931, -0.0000])
    """
    return -(2 / beta) * F.logsigmoid(beta * (nll - delta))


class SimNPO(LossTerm):
    """Mean over pairs of the paper's SimNPO loss, on the mean log-prob of a side's tokens in scope, in nats a token.

    NPO with the sequence's own length in place of the base: its push fades by how unlikely a token is on average, not
    by how far the sequence has moved, so short and long edits are forgotten alike.

    Args:
        side: whose tokens.
        scope: which of them; the paper takes all, `edited` spares what both sides share.
        beta: 1 over the number of nats a token, above `delta`, within which the push fades.
        delta: NLL, in nats a token, from which on the push fades; beta times it is the paper's margin gamma.
        weight: factor of the term in the objective; open-unlearning uses 0.125 beside a retain weight of 1.
    """

    def __init__(
        self,
        side: PairSide = "buggy",
        scope: TokenScope = "edited",
        beta: float = 4.5,
        delta: float = 0.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self._more_than_zero(beta=beta)
        self.side: PairSide = side
        self.scope: TokenScope = scope
        self.beta = beta
        self.delta = delta

    def forward(self, passes: Passes) -> Tensor:
        """Return the mean over the step's pairs."""
        rows = passes.rows(self.side, self.scope)
        nll = mean_by_example(-passes.log_probs(self.side, self.scope), rows, example_ids(rows))
        return passes.example_mean(simnpo(nll, self.beta, self.delta))

"""Negative log-likelihood: what every language model learns with."""

from __future__ import annotations

from torch import Tensor

from hotfix.losses.base import LossTerm
from hotfix.losses.passes import Passes
from hotfix.types import Side, TokenScope

__all__ = ["NLL"]


class NLL(LossTerm):
    """Mean of -log p over the tokens of a scope, in nats a token.

    With `scope="edited"` it is `learn_added` of the hotfixing paper (Yang and Lo, https://arxiv.org/abs/2408.05727),
    with tokens that really differ in place of whole changed lines; with `scope="all"`, its `all_after`.

    Args:
        side: whose tokens.
        scope: which of them.
        weight: factor of the term in the objective.
    """

    def __init__(self, side: Side = "fixed", scope: TokenScope = "edited", weight: float = 1.0) -> None:
        super().__init__(weight)
        self.side: Side = side
        self.scope: TokenScope = scope

    def forward(self, passes: Passes) -> Tensor:
        """Return the mean over the step's tokens."""
        return passes.mean(-passes.log_probs(self.side, self.scope), self.side, self.scope)

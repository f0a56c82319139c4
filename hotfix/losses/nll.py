"""Negative log-likelihood: what every language model learns with."""

from __future__ import annotations

from torch import Tensor

from hotfix.losses.base import LossTerm
from hotfix.losses.passes import Passes
from hotfix.losses.spaced import check_max_tokens, spaced
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
        max_tokens: of the scope in one micro-batch; where there are more, an evenly spaced part stands for all, scaled
            up. With `scope="all"` and long prefixes, much of a step's arithmetic would be the head's.
    """

    def __init__(
        self, side: Side = "fixed", scope: TokenScope = "edited", weight: float = 1.0, max_tokens: int | None = None
    ) -> None:
        super().__init__(weight)
        check_max_tokens("NLL", max_tokens)
        self.side: Side = side
        self.scope: TokenScope = scope
        self.max_tokens = max_tokens

    def forward(self, passes: Passes) -> Tensor:
        """Return the mean over the step's tokens."""
        rows = passes.rows(self.side, self.scope)
        nll = -passes.log_probs(self.side, self.scope, spaced(rows, self.max_tokens))
        return passes.mean(nll * (len(rows) / max(1, len(nll))), self.side, self.scope)

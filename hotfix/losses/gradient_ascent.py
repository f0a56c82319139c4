"""Gradient ascent on what is to be forgotten (Jang et al. 2023, https://arxiv.org/abs/2210.01504, its L_UL)."""

from __future__ import annotations

from torch import Tensor

from hotfix.losses.base import LossTerm
from hotfix.losses.passes import Passes
from hotfix.types import Side, TokenScope

__all__ = ["GradientAscent"]


class GradientAscent(LossTerm):
    """Mean of +log p over the tokens of a scope, in nats a token: below zero, and without a lower bound.

    With `scope="edited"` it is `unlearn_deleted` of the hotfixing paper's code (https://arxiv.org/abs/2408.05727), with
    `scope="all"` its `unlearn_all_before`. The push never fades, so long training ends in meaningless text; it is here
    as the baseline that bounded terms are compared with. Beside `NLL` in the learn slot it is the paper's
    `learn_added_unlearn_deleted` as it was meant, with both parts.

    Args:
        side: whose tokens.
        scope: which of them. Beside a learning term keep `edited`: `all` pushes what both sides share down again.
        weight: factor of the term in the objective.
    """

    def __init__(self, side: Side = "buggy", scope: TokenScope = "edited", weight: float = 1.0) -> None:
        super().__init__(weight)
        self.side: Side = side
        self.scope: TokenScope = scope

    def forward(self, passes: Passes) -> Tensor:
        """Return the mean over the step's tokens."""
        return passes.mean(passes.log_probs(self.side, self.scope), self.side, self.scope)

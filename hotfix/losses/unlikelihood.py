"""Unlikelihood (Welleck et al. 2020, https://arxiv.org/abs/1908.04319), bounded below by zero."""

from __future__ import annotations

from torch import Tensor

from hotfix.functional import log1mexp
from hotfix.losses.base import LossTerm
from hotfix.losses.passes import Passes
from hotfix.losses.sequences import first_of_each
from hotfix.types import Side, TokenScope

__all__ = ["Unlikelihood"]


class Unlikelihood(LossTerm):
    """Mean of -log(1 - p) over the tokens of a scope, in nats a token (equation 4 of the paper).

    Its push fades as p does, unlike gradient ascent's, which grows without bound and ends in meaningless text.

    Args:
        side: whose tokens.
        scope: which of them.
        first_only: take only each pair's first token in scope. There the sides part; behind it, the context is one
            that the model will no longer write, and pushing down the rest (often common code) does harm.
        weight: factor of the term in the objective.
    """

    def __init__(
        self, side: Side = "buggy", scope: TokenScope = "edited", first_only: bool = True, weight: float = 1.0
    ) -> None:
        super().__init__(weight)
        self.side: Side = side
        self.scope: TokenScope = scope
        self.first_only = first_only

    def forward(self, passes: Passes) -> Tensor:
        """Return the mean over the step's tokens, or with `first_only` over its pairs."""
        terms = -log1mexp(passes.log_probs(self.side, self.scope))
        if not self.first_only:
            return passes.mean(terms, self.side, self.scope)
        return passes.example_mean(terms[first_of_each(passes.rows(self.side, self.scope))])

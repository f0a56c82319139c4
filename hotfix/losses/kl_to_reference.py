"""Divergence from the frozen base: what is not to change."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hotfix.losses.base import LossTerm
from hotfix.losses.passes import Passes
from hotfix.losses.spaced import check_max_tokens, spaced
from hotfix.types import Side, TokenScope

__all__ = ["KLToReference"]


class KLToReference(LossTerm):
    """Mean divergence of policy and base over tokens of the given sides, in nats a token, with the policy's gradient.

    The published code of the hotfixing paper computes this term without a gradient, so it retains nothing; SVEN
    (https://arxiv.org/abs/2302.05319, section 4.3) and this class do.

    Args:
        sides: whose tokens, and the factor of each side's mean; by default 0.1 for the pairs' own unedited tokens,
            which must give way a little for the fix to be written, and 1 for retain text.
        scope: which of them. Edited tokens are meant to change, so `unedited` unless there is a reason.
        max_tokens: of a side in one micro-batch; where there are more, an evenly spaced part stands for all, scaled up.
            The head's [tokens, vocabulary] matrices are what this term costs.
        direction: `forward` is KL(base || policy): whatever the base might write must stay possible. `reverse` is
            KL(policy || base): the policy must not write what the base would not, but may drop some of what it would.
        weight: factor of the term in the objective.
    """

    def __init__(
        self,
        sides: dict[Side, float] | None = None,
        scope: TokenScope = "unedited",
        max_tokens: int | None = None,
        direction: Literal["forward", "reverse"] = "forward",
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        check_max_tokens("KLToReference", max_tokens)
        self.sides: dict[Side, float] = sides if sides is not None else {"fixed": 0.1, "retain": 1.0}
        self.scope: TokenScope = scope
        self.max_tokens = max_tokens
        self.direction = direction

    def forward(self, passes: Passes) -> Tensor:
        """Return the weighted sum of the sides' means."""
        return torch.stack([factor * self._of_side(passes, side) for side, factor in self.sides.items()]).sum()

    def _of_side(self, passes: Passes, side: Side) -> Tensor:
        rows = passes.rows(side, self.scope)
        if not len(rows):
            return passes.mean(rows.float(), side, self.scope)
        keep = spaced(rows, self.max_tokens)
        kl = passes.divergence(side, self.scope, keep, reverse=self.direction == "reverse")
        return passes.mean(kl * (len(rows) / len(kl)), side, self.scope)

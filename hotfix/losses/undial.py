"""UNDIAL: self-distillation on adjusted logits (Dong et al. 2024, https://arxiv.org/abs/2402.10052)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from hotfix.losses.base import LossTerm
from hotfix.losses.passes import Passes
from hotfix.types import Side, TokenScope

__all__ = ["UNDIAL", "undial_target"]


def undial_target(reference_logits: Tensor, tokens: Tensor, beta: float) -> Tensor:
    """Return the base's distribution with the token's own logit lowered by `beta`: [N, V], int64 [N] -> [N, V].

    >>> import torch
    >>> undial_target(torch.zeros(1, 2), torch.tensor([0]), beta=1.0986123)
    tensor([[0.2500, 0.7500]])
    """
    lowered = reference_logits.scatter_add(-1, tokens[:, None], reference_logits.new_full((len(tokens), 1), -beta))
    return lowered.softmax(-1)


class UNDIAL(LossTerm):
    """Mean cross-entropy of the policy to the corrected base, over the tokens of a scope, in nats a token.

    A target to arrive at in place of a direction to run in: the token's probability falls as far as its logit is
    lowered, all others keep their proportions. Its lowest value is the target's entropy, not 0.

    Args:
        side: whose tokens.
        scope: which of them; the paper takes all, or those that a reader would call the secret.
        beta: by how many nats the token's logit is lowered; a token of probability p ends at the odds
            exp(-beta) p / (1 - p).
        weight: factor of the term in the objective.
    """

    def __init__(
        self, side: Side = "buggy", scope: TokenScope = "edited", beta: float = 10.0, weight: float = 1.0
    ) -> None:
        super().__init__(weight)
        self._more_than_zero(beta=beta)
        self.side: Side = side
        self.scope: TokenScope = scope
        self.beta = beta

    def forward(self, passes: Passes) -> Tensor:
        """Return the mean over the step's tokens."""
        tokens = passes.tokens(self.side, self.scope)
        if not len(tokens):
            return passes.mean(tokens.float(), self.side, self.scope)
        target = undial_target(passes.reference_logits(self.side, self.scope), tokens, self.beta)
        values = F.cross_entropy(passes.logits(self.side, self.scope), target, reduction="none")
        return passes.mean(values, self.side, self.scope)

"""PROD: distillation to the base without the token (Jiang et al. 2025, https://arxiv.org/abs/2506.17125)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hotfix.errors import ConfigError
from hotfix.generation.drawing import truncate
from hotfix.losses.base import LossTerm
from hotfix.losses.passes import Passes
from hotfix.types import Side, TokenScope

__all__ = ["PROD", "prod_target"]


def prod_target(reference_logits: Tensor, tokens: Tensor, top_p: float, temperature: float, alpha: float) -> Tensor:
    """Return the corrected target: the base's nucleus without the token, renormalised; -alpha p at the token.

    Args:
        reference_logits: float32 [N, V].
        tokens: to be forgotten, int64 [N].
        top_p: mass of the nucleus, of what is left once the token is gone.
        temperature: of what is in the nucleus.
        alpha: how far below zero the token's target lies, as a multiple of the base's probability of it.

    Returns:
        Target weights, float32 [N, V]; each row sums to 1 with `alpha` 0.

    >>> base = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    >>> prod_target(base.log(), torch.tensor([0]), top_p=0.8, temperature=1.0, alpha=0.1)
    tensor([[-0.0500,  0.6667,  0.3333,  0.0000]])
    """
    place = tokens[:, None]
    others = reference_logits.scatter(-1, place, -torch.inf).softmax(-1)
    nucleus = truncate(others, top_k=0, top_p=top_p) ** (1 / temperature)
    target = nucleus / nucleus.sum(-1, keepdim=True)
    return target.scatter(-1, place, -alpha * reference_logits.softmax(-1).gather(-1, place))


class PROD(LossTerm):
    """Mean cross-entropy of the policy to the corrected target, over the tokens of a scope, in nats a token.

    The token's probability goes to zero and what the base would have written in its place takes over. With `alpha` 0
    it is bounded below by the target's entropy, above 0 it isn't. The published code adds 1e-10 to p before the
    logarithm and so has no gradient where a target is least likely; here the logarithm is of the logits.

    Args:
        side: whose tokens.
        scope: which of them. The published code takes the prompt's tokens too; `edited` spares what both sides share.
        top_p: mass of the base's nucleus, once the token is gone, that becomes the target.
        temperature: of the target; below 1 sharpens it.
        alpha: how hard the token itself is pushed down beyond the target, as a multiple of the base's p.
        weight: factor of the term in the objective.
    """

    def __init__(
        self,
        side: Side = "buggy",
        scope: TokenScope = "edited",
        top_p: float = 0.8,
        temperature: float = 1.0,
        alpha: float = 0.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self._more_than_zero(top_p=top_p, temperature=temperature)
        if top_p > 1:
            raise ConfigError(f"top_p of PROD is {top_p}, expected at most 1")
        if not alpha >= 0:
            raise ConfigError(f"alpha of PROD is {alpha}, expected 0 or more")
        self.side: Side = side
        self.scope: TokenScope = scope
        self.top_p = top_p
        self.temperature = temperature
        self.alpha = alpha

    def forward(self, passes: Passes) -> Tensor:
        """Return the mean over the step's tokens."""
        tokens = passes.tokens(self.side, self.scope)
        if not len(tokens):
            return passes.mean(tokens.float(), self.side, self.scope)
        reference = passes.reference_logits(self.side, self.scope)
        target = prod_target(reference, tokens, self.top_p, self.temperature, self.alpha)
        values = F.cross_entropy(passes.logits(self.side, self.scope), target, reduction="none")
        return passes.mean(values, self.side, self.scope)

"""CodeEraser's selective unlearning (Chu et al. 2025, "Scrub It Out!", https://arxiv.org/abs/2509.13755)."""

from __future__ import annotations

from torch import Tensor

from hotfix.errors import ConfigError
from hotfix.functional import token_kl
from hotfix.losses.base import LossTerm
from hotfix.losses.passes import Passes
from hotfix.losses.sequences import PairSide

__all__ = ["CodeEraser"]


class CodeEraser(LossTerm):
    """-CE(secret) + gamma CE(other) - lambda KL(base || policy; secret), means in nats a token.

    The forget step of the paper's code (mode SSCU): ascent on the secret's tokens, here those that the fixed side does
    not have, descent on the rest of the same text, and away from the base on the secret. Its retain step, lambda alpha
    KL(base || policy) on other code, is `KLToReference({"retain": 1})` with a weight of 0.1; the paper alternates the
    two, an objective adds them. Two of the three parts have no lower bound: stop early, or take a bounded term.

    Args:
        side: whose edited tokens are the secret.
        gamma: factor of the other tokens' cross-entropy, a pure number.
        divergence: factor of the divergence, a pure number; the paper's lambda.
        weight: factor of the term in the objective.
    """

    def __init__(
        self, side: PairSide = "buggy", gamma: float = 0.1, divergence: float = 0.1, weight: float = 1.0
    ) -> None:
        super().__init__(weight)
        for name, value in (("gamma", gamma), ("divergence", divergence)):
            if not value >= 0:
                raise ConfigError(f"{name} of CodeEraser is {value}, expected 0 or more")
        self.side: PairSide = side
        self.gamma = gamma
        self.divergence = divergence

    def forward(self, passes: Passes) -> Tensor:
        """Return the sum of the three means over the step's tokens."""
        secret = passes.log_probs(self.side, "edited")
        if self.divergence and len(secret):
            logits, reference = (get(self.side, "edited") for get in (passes.logits, passes.reference_logits))
            secret = secret - self.divergence * token_kl(reference, logits)
        forget = passes.mean(secret, self.side, "edited")
        other = passes.mean(-passes.log_probs(self.side, "unedited"), self.side, "unedited")
        return forget + self.gamma * other

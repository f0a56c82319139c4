"""Simple preference optimisation, without a reference (Meng et al. 2024, https://arxiv.org/abs/2405.14734)."""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn import functional as F

from hotfix.losses.base import LossTerm
from hotfix.losses.passes import Passes
from hotfix.losses.sequences import by_pair
from hotfix.types import TokenScope

__all__ = ["SimPO", "simpo"]


def simpo(fixed: Tensor, buggy: Tensor, beta: float, gamma: float = 0.0) -> Tensor:
    """Return -log sigmoid(beta (fixed - buggy) - gamma) of log p [E] each -> nats [E].

    >>> import torch
    >>> simpo(torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, -2.0]), beta=2.0)
    tensor([0.6931, 0.1269])
    """
    return -F.logsigmoid(beta * (fixed - buggy) - gamma)


class SimPO(LossTerm):
    """Mean over pairs of equation 6 of the paper, the fixed side preferred to the buggy one, in nats a pair.

    DPO without the base: its push is as large as the policy is wrong about which side is likelier, and fades where it
    is right already, whatever the base thought. With beta 1 and no margin it is the cross-entropy of choosing between
    the two statements.

    Args:
        scope: which tokens of both sides; `all` counts those behind the edit too, which one side may make likelier than
            the other, and pays for those before it, which cancel.
        beta: 1 over the number of nats (a token, when normalised) within which the push fades; the paper takes 2 to 10
            a token.
        gamma: margin, a pure number; beta times the nats by which the fixed side is to be ahead. The paper's is 0.3 to
            1.6.
        length_normalised: divide each side's sum by its number of tokens, as the paper does; without, a shorter side
            is likelier, as it is when code is written.
        weight: factor of the term in the objective.
    """

    def __init__(
        self,
        scope: TokenScope = "edited",
        beta: float = 1.0,
        gamma: float = 0.0,
        length_normalised: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self._more_than_zero(beta=beta)
        self.scope: TokenScope = scope
        self.beta = beta
        self.gamma = gamma
        self.length_normalised = length_normalised

    def forward(self, passes: Passes) -> Tensor:
        """Return the mean over the step's pairs."""
        log_probs = partial(passes.log_probs, scope=self.scope)
        fixed, buggy = by_pair(passes, self.scope, log_probs, self.length_normalised)
        return passes.example_mean(simpo(fixed, buggy, self.beta, self.gamma))

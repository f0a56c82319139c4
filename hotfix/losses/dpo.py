"""Direct preference optimisation (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290), fixed over buggy."""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn import functional as F

from hotfix.errors import ConfigError
from hotfix.losses.base import LossTerm
from hotfix.losses.passes import Passes
from hotfix.losses.sequences import PairSide, by_pair
from hotfix.types import TokenScope

__all__ = ["DPO", "dpo"]


def dpo(fixed: Tensor, buggy: Tensor, beta: float, positive: float = 0.0) -> Tensor:
    """Return -log sigmoid(beta (fixed - buggy - positive max(0, -fixed))) of log(p / p_base) [E] each -> nats [E].

    >>> import torch
    >>> dpo(torch.tensor([0.0, 2.0]), torch.tensor([0.0, -2.0]), beta=100.0)
    tensor([0.6931, -0.0000])
    >>> dpo(torch.tensor([-1.0]), torch.tensor([-2.0]), beta=1.0, positive=1.0)
    tensor([0.6931])
    """
    return -F.logsigmoid(beta * (fixed - buggy - positive * F.relu(-fixed)))


class DPO(LossTerm):
    """Mean over pairs of equation 7 of the paper, the fixed side preferred to the buggy one, in nats a pair.

    Only the difference counts: the loss falls also where both sides get less likely and the buggy one more so, and that
    is what happens where the sides are alike. `positive` is the cure of Pal et al. (DPO-Positive,
    https://arxiv.org/abs/2402.13228): a pair whose fixed side is less likely than the base had it is punished for
    that. `NLL` in the learn slot is another cure.

    Args:
        scope: which tokens of both sides; the paper takes all. In `edited` no token that the sides share has a part,
            in `all` those before the edit cancel.
        beta: 1 over the number of nats by which the sides have to part before the push fades; a small one lets the
            policy leave the base further.
        length_normalised: divide each side's sum by its number of tokens; beta is then in tokens a nat, and wants to be
            larger by about the number of tokens.
        positive: lambda of DPO-Positive, a pure number; theirs is 50, 0 is plain DPO.
        weight: factor of the term in the objective.
    """

    def __init__(
        self,
        scope: TokenScope = "edited",
        beta: float = 0.1,
        length_normalised: bool = False,
        positive: float = 0.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self._more_than_zero(beta=beta)
        if not positive >= 0:
            raise ConfigError(f"positive of DPO is {positive}, expected 0 or more")
        self.scope: TokenScope = scope
        self.beta = beta
        self.length_normalised = length_normalised
        self.positive = positive

    def forward(self, passes: Passes) -> Tensor:
        """Return the mean over the step's pairs."""
        fixed, buggy = by_pair(passes, self.scope, partial(self._log_ratios, passes), self.length_normalised)
        return passes.example_mean(dpo(fixed, buggy, self.beta, self.positive))

    def _log_ratios(self, passes: Passes, side: PairSide) -> Tensor:
        return passes.log_probs(side, self.scope) - passes.reference_log_probs(side, self.scope)

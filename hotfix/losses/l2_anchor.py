"""L2-SP: squared distance from the starting point (Li et al. 2018, https://arxiv.org/abs/1802.01483)."""

from __future__ import annotations

from torch import Tensor

from hotfix.losses.base import LossTerm
from hotfix.losses.passes import Passes

__all__ = ["L2Anchor"]


class L2Anchor(LossTerm):
    """Half the squared Euclidean distance of the policy's weights from the base's: the L2-SP penalty with alpha 1.

    A sum over weights, without a unit. It holds full fine-tuning to the base where a divergence on text is too dear.
    For LoRA it is that of the weight change, half the sum over layers of |alpha / rank B A|^2, which weight decay on
    A and B is not. It has nothing to do with the batch, so accumulation and processes leave it as it is. It is 1 where
    each of 1e8 weights has moved by 1.4e-4.

    Args:
        weight: factor of the term in the objective.
    """

    def forward(self, passes: Passes) -> Tensor:
        """Return half the squared distance."""
        return 0.5 * passes.squared_drift()

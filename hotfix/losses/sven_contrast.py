"""SVEN's contrastive loss L_CT (He and Vechev 2023, https://arxiv.org/abs/2302.05319, section 4), without prefixes."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from hotfix.losses.base import LossTerm
from hotfix.losses.passes import Passes
from hotfix.losses.sequences import PairSide, example_ids, first_of_each, sum_by_example

__all__ = ["SVENContrast", "contrast"]


def contrast(wanted: Tensor, unwanted: Tensor) -> Tensor:
    """Return -log(p / (p + p')) from log p, log p' in nats: [N] each -> [N].

    >>> import torch
    >>> contrast(torch.tensor([0.25]).log(), torch.tensor([0.75]).log()).exp()
    tensor([4.])
    """
    return F.softplus(unwanted - wanted)


class SVENContrast(LossTerm):
    """Mean of -log(p / (p + p')), in nats: the share of the wanted one of two probabilities.

    SVEN compares the same token under a secure and under a vulnerable prefix. A patch has one policy, which leaves two
    readings:

    - `other_side`: the fixed side's token against the buggy side's at the one position where both have the same
      context, that is where the sides part. Behind it their contexts differ, and a comparison token by token has no
      meaning. A mean over pairs.
    - `base`: the faithful one over all edited tokens. The policy takes the part of the secure prefix and the frozen
      base that of the vulnerable one: p is the policy's on the fixed side and the base's on the buggy side. The mean
      over the fixed side's tokens plus that over the buggy side's; 2 log 2 at the base.

    SVEN weighs it by 4 beside `NLL` on the edited tokens and by 1.6 a `KLToReference` on the unedited ones.

    Args:
        against: what is compared.
        weight: factor of the term in the objective.
    """

    def __init__(self, against: Literal["other_side", "base"] = "other_side", weight: float = 1.0) -> None:
        super().__init__(weight)
        self.against = against

    def forward(self, passes: Passes) -> Tensor:
        """Return the mean."""
        return self._other_side(passes) if self.against == "other_side" else self._base(passes)

    def _other_side(self, passes: Passes) -> Tensor:
        pairs = example_ids(passes.rows("fixed", "edited"), passes.rows("buggy", "edited"))
        fixed, buggy = (_where_they_part(passes, side, pairs) for side in ("fixed", "buggy"))
        return passes.example_mean(contrast(fixed, buggy))

    def _base(self, passes: Passes) -> Tensor:
        fixed, buggy = (passes.log_probs(side, "edited") for side in ("fixed", "buggy"))
        learnt = contrast(fixed, passes.reference_log_probs("fixed", "edited"))
        unlearnt = contrast(passes.reference_log_probs("buggy", "edited"), buggy)
        return passes.mean(learnt, "fixed", "edited") + passes.mean(unlearnt, "buggy", "edited")


def _where_they_part(passes: Passes, side: PairSide, pairs: Tensor) -> Tensor:
    """Log p of a side's first edited token: [pairs]."""
    rows = passes.rows(side, "edited")
    first = first_of_each(rows)
    return sum_by_example(passes.log_probs(side, "edited")[first], rows[first], pairs)

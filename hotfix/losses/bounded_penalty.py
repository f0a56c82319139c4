"""The hotfixing paper's bounded alternative to gradient ascent (https://arxiv.org/abs/2408.05727)."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from hotfix.losses.base import LossTerm
from hotfix.losses.passes import Passes
from hotfix.losses.sequences import example_ids, mean_by_example
from hotfix.types import TokenScope

__all__ = ["BoundedPenalty", "Denominator", "bounded_penalty"]

Denominator: TypeAlias = Literal["added_and_deleted", "twice_deleted"]
_TINY = 1e-6


def bounded_penalty(added: Tensor, deleted: Tensor, denominator: Denominator, learn: float, penalty: float) -> Tensor:
    """Return `learn L_A + penalty L_A / (denominator + 1e-6)` of mean NLLs L_A, L_D >= 0 in nats a token: [E] -> [E].

    >>> bounded_penalty(torch.tensor([1.0]), torch.tensor([3.0]), "added_and_deleted", 0.7, 0.3)
    tensor([0.7750])
    >>> bounded_penalty(torch.tensor([1.0]), torch.tensor([3.0]), "twice_deleted", 0.7, 0.3)
    tensor([0.7500])
    """
    other = added if denominator == "added_and_deleted" else deleted
    return learn * added + penalty * added / (other + deleted + _TINY)


class BoundedPenalty(LossTerm):
    """0.7 L_A + 0.3 L_A / (L_A + L_D): learns the fixed side's tokens and fades once the buggy side's are unlikely.

    `learn_added_penalize_deleted` of the paper's published code. L_A and L_D are mean -log p, in nats a token, of the
    fixed and of the buggy side's tokens in scope. The code divides by 2 L_D + 1e-6, adding L_D to itself; that has no
    upper bound (L_A / 2e-6 where the model is sure of the buggy token) and is `denominator="twice_deleted"`. The share
    L_A / (L_A + L_D), in (0, 1), is what the comment there describes.

    A ratio of means over a batch isn't a sum, so no dealing of a step to micro-batches and processes can give it
    exactly. `per="pair"` takes the ratio of each pair's own means and averages over the step's pairs: nothing depends
    on the dealing then, and every pair weighs the same. `per="micro_batch"` is the published ratio of the batch's
    means: exact where a step is one micro-batch, else the micro-batches' mean weighted by their pairs.

    Args:
        denominator: `added_and_deleted` as meant, or `twice_deleted` as published.
        scope: which tokens of both sides.
        per: what the ratio is taken of.
        learn: factor of L_A.
        penalty: factor of the ratio, in nats a token as the ratio itself has no unit.
        weight: factor of the term in the objective.
    """

    def __init__(
        self,
        denominator: Denominator = "added_and_deleted",
        scope: TokenScope = "edited",
        per: Literal["pair", "micro_batch"] = "pair",
        learn: float = 0.7,
        penalty: float = 0.3,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.denominator: Denominator = denominator
        self.scope: TokenScope = scope
        self.per = per
        self.learn = learn
        self.penalty = penalty

    def forward(self, passes: Passes) -> Tensor:
        """Return the mean over the step's pairs; a pair without a token in scope on either side adds 0."""
        added, deleted = (-passes.log_probs(side, self.scope) for side in ("fixed", "buggy"))
        added_rows, deleted_rows = passes.rows("fixed", self.scope), passes.rows("buggy", self.scope)
        pairs = example_ids(added_rows[torch.isin(added_rows, deleted_rows)])
        if self.per == "pair":
            added, deleted = _mean(added, added_rows, pairs), _mean(deleted, deleted_rows, pairs)
        else:
            added, deleted = added.mean().expand(len(pairs)), deleted.mean().expand(len(pairs))
        return passes.example_mean(bounded_penalty(added, deleted, self.denominator, self.learn, self.penalty))


def _mean(values: Tensor, rows: Tensor, pairs: Tensor) -> Tensor:
    keep = torch.isin(rows, pairs)
    return mean_by_example(values[keep], rows[keep], pairs)

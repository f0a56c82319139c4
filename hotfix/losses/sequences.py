"""Sums over the tokens of each example: what sequence-level terms (NPO, DPO, ...) are functions of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor

from hotfix.losses.passes import Passes
from hotfix.types import TokenScope

__all__ = ["PairSide", "by_pair", "example_ids", "first_of_each", "mean_by_example", "sum_by_example"]

PairSide: TypeAlias = Literal["fixed", "buggy"]
"""A sequence-level mean is over pairs, so retain texts have no place in it."""


def example_ids(*rows: Tensor) -> Tensor:
    """Return which examples have a token in any of some row indices: int64 [N] each -> ascending int64 [E].

    >>> example_ids(torch.tensor([0, 0, 3]), torch.tensor([1, 3]))
    tensor([0, 1, 3])
    """
    return cast("Tensor", torch.cat(rows).unique())


def sum_by_example(values: Tensor, rows: Tensor, examples: Tensor) -> Tensor:
    """Return the sum of each example's values: float [N], int64 [N], ascending int64 [E] -> float [E].

    >>> sum_by_example(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 3]), torch.tensor([0, 1, 3]))
    tensor([3., 0., 4.])
    """
    return values.new_zeros(len(examples)).index_add(0, torch.searchsorted(examples, rows.contiguous()), values)


def mean_by_example(values: Tensor, rows: Tensor, examples: Tensor) -> Tensor:
    """Return the mean of each example's values, 0 where it has none: float [N], int64 [N], int64 [E] -> float [E].

    >>> mean_by_example(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 3]), torch.tensor([0, 1, 3]))
    tensor([1.5000, 0.0000, 4.0000])
    """
    counts = sum_by_example(torch.ones_like(values), rows, examples)
    return sum_by_example(values, rows, examples) / counts.clamp(min=1)


def first_of_each(rows: Tensor) -> Tensor:
    """Return which tokens are the first of their example: int64 [N], examples in one piece each -> bool [N].

    >>> first_of_each(torch.tensor([0, 0, 2, 2, 2]))
    tensor([ True, False,  True, False, False])
    """
    first = torch.ones_like(rows, dtype=torch.bool)
    first[1:] = rows[1:] != rows[:-1]
    return first


def by_pair(
    passes: Passes, scope: TokenScope, value: Callable[[PairSide], Tensor], length_normalised: bool
) -> tuple[Tensor, Tensor]:
    """Return a number of each pair's fixed and of its buggy side, 0 for a side without a token in scope: [E] each.

    Args:
        passes: of the step.
        scope: which tokens of both sides.
        value: of each of a side's tokens in scope, [N].
        length_normalised: take the mean of a side's values, not their sum.
    """
    over_tokens = mean_by_example if length_normalised else sum_by_example
    fixed, buggy = passes.rows("fixed", scope), passes.rows("buggy", scope)
    pairs = example_ids(fixed, buggy)
    return over_tokens(value("fixed"), fixed, pairs), over_tokens(value("buggy"), buggy, pairs)

"""Sums over the tokens of each example: what sequence-level terms (NPO, DPO, ...) are functions of."""

from __future__ import annotations

from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor

__all__ = ["PairSide", "example_ids", "first_of_each", "mean_by_example", "sum_by_example"]

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

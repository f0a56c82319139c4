"""The metric seam: one number an example, kept for intervals and paired tests, summed over processes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["ExampleMetric", "Kind", "Record", "Tally"]

# What a task writes down about one example: plain JSON values.
Record = Mapping[str, Any]
Kind = Literal["rate", "real"]


class Tally(NamedTuple):
    """Of one example: a sum, and how many samples it is over."""

    total: float
    samples: float


class ExampleMetric(Metric):
    """Mean over examples of `total / count`; an example without samples doesn't count.

    Where `by_sample` is true it is the mean over all samples instead, the sum of totals by the sum of counts: then an
    example weighs as much as it has samples (tokens, say).

    A subclass says by `observe`, a pure function, what one record is worth. States are two vectors over the examples
    with `sum` reduction, so that processes that share the examples agree exactly with one that has all.

    Args:
        num_examples: size of the set; `bind` sets it later.
    """

    is_differentiable = False
    full_state_update = False
    kind: Kind = "rate"
    by_sample = False

    total: Tensor
    count: Tensor

    def __init__(self, num_examples: int = 0) -> None:
        super().__init__()
        self.bind(num_examples)

    def bind(self, num_examples: int) -> Self:
        """Size the states and clear them."""
        for state in ("total", "count"):
            self.add_state(state, torch.zeros(num_examples, dtype=torch.float64), dist_reduce_fx="sum")
        return self

    @abstractmethod
    def observe(self, record: Record) -> Tally:
        """Return what one record is worth."""

    def update(self, index: int, record: Record) -> None:
        """Add one example's record.

        Args:
            index: place of the example in the set.
            record: what the task wrote down.
        """
        total, samples = self.observe(record)
        self.total[index] += total
        self.count[index] += samples

    def per_example(self) -> Tensor:
        """Return each example's value, float64 [E]; NaN without samples."""
        return self.total / self.count

    def compute(self) -> Tensor:
        """Return the mean over examples that have samples, or over samples, float64 []; NaN where there are none."""
        if self.by_sample:
            return self.total.sum() / self.count.sum()
        return self.per_example()[self.count > 0].mean()

    def scaled(self, mean: float) -> float:
        """Return what is reported for a mean; it must grow with it, and intervals are put through it as well."""
        return mean

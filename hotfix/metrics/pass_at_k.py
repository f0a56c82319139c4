"""Pass@k: the chance that at least one of k samples of a problem is correct."""

from __future__ import annotations

import torch
from torch import Tensor

from hotfix.errors import ConfigError
from hotfix.metrics.base import ExampleMetric, Record, Tally

__all__ = ["PassAtK", "pass_at_k"]


def pass_at_k(num_samples: Tensor, num_correct: Tensor, k: int) -> Tensor:
    """Returns the unbiased estimate of pass@k for each problem, float64 ``[P]``.

    ``1 - C(n - c, k) / C(n, k)`` of Chen et al. 2021 (https://arxiv.org/abs/2107.03374, equation 1), computed as
    ``1 - prod_j (n - c - j) / (n - j)`` over ``j < k``, so no binomial coefficient overflows.

    Args:
        num_samples: samples n of each problem, integer ``[P]``.
        num_correct: correct samples c of each problem, integer ``[P]``.
        k: draws without replacement, at least 1.

    Returns:
        Float64 ``[P]`` in [0, 1]; NaN where a problem has fewer than k samples.

    Raises:
        ValueError: k < 1, shapes or dtypes that don't fit, negative counts, or more correct than sampled.

    >>> pass_at_k(torch.tensor([4, 4, 1]), torch.tensor([1, 4, 1]), k=2)
    tensor([0.5000, 1.0000,    nan], dtype=torch.float64)
    """
    _check_counts(num_samples, num_correct, k)
    drawn = torch.arange(k, dtype=torch.float64, device=num_samples.device)
    left = num_samples.double().unsqueeze(-1) - drawn  # [P, k]
    wrong_left = (left - num_correct.unsqueeze(-1)).clamp(min=0)
    estimate = 1 - (wrong_left / left).prod(dim=-1)
    return estimate.masked_fill(num_samples < k, torch.nan)


class PassAtK(ExampleMetric):
    """Mean over problems of the unbiased pass@k; a field of the record has one yes or no a program.

    NaN if a problem has fewer than k programs: leaving it out would favour the problems that were sampled more.

    Args:
        k: draws a problem.
        num_examples: size of the set.
        field: of the record.

    >>> metric = PassAtK(1, num_examples=2)
    >>> metric.update(0, {"passed": [True, False]}); metric.update(1, {"passed": [False]})
    >>> metric.compute()
    tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = True
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(self, k: int = 1, num_examples: int = 0, field: str = "passed") -> None:
        super().__init__(num_examples)
        if k < 1:
            raise ConfigError(f"k of pass@k is {k}, expected at least 1")
        self.k = k
        self.field = field

    def observe(self, record: Record) -> Tally:
        """Count the programs and those that passed."""
        return Tally(sum(map(bool, record[self.field])), len(record[self.field]))

    def per_example(self) -> Tensor:
        """Return each problem's estimate, float64 [P]; NaN where programs are too few."""
        return pass_at_k(self.count.long(), self.total.long(), self.k)


def _check_counts(num_samples: Tensor, num_correct: Tensor, k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if num_samples.shape != num_correct.shape:
        raise ValueError(f"num_samples has shape {list(num_samples.shape)}, num_correct {list(num_correct.shape)}")
    if not (_is_integer(num_samples) and _is_integer(num_correct)):
        raise ValueError(f"counts must be integers, got {num_samples.dtype} and {num_correct.dtype}")
    if bool((num_samples < 0).any()) or bool((num_correct < 0).any()):
        raise ValueError("num_samples and num_correct must not be negative")
    if bool((num_correct > num_samples).any()):
        raise ValueError("num_correct must not be above num_samples")


def _is_integer(values: Tensor) -> bool:
    return not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)

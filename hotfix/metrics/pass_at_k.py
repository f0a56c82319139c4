"""Pass@k: the chance that at least one of k samples of a problem is correct."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

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


class PassAtK(Metric):
    """Pass@k over a fixed set of problems; states are two counts per problem, so sums over processes are exact.

    ``compute`` is the mean over the problems that have samples: NaN if one of them has fewer than k, because leaving
    it out would favour the problems that were sampled more; NaN if none has any.

    Args:
        num_problems: size of the set.
        k: draws per problem.

    >>> metric = PassAtK(num_problems=2)
    >>> metric.update(torch.tensor([0, 0, 1]), torch.tensor([True, False, False]))
    >>> metric.compute()
    tensor(0.2500, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    num_samples: Tensor
    num_correct: Tensor

    def __init__(self, num_problems: int, k: int = 1) -> None:
        super().__init__()
        if num_problems < 1 or k < 1:
            raise ValueError(f"num_problems and k must be at least 1, got {num_problems} and {k}")
        self.num_problems, self.k = num_problems, k
        self.add_state("num_samples", torch.zeros(num_problems, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("num_correct", torch.zeros(num_problems, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, problem: Tensor | int, correct: Tensor | bool) -> None:
        """Adds samples.

        Args:
            problem: index of the problem of each sample, an int or an integer tensor of any shape.
            correct: whether each sample is correct, a bool or a bool tensor of the same shape.

        Raises:
            ValueError: an index outside the set, or shapes or dtypes that don't fit.
        """
        index = torch.as_tensor(problem, device=self.num_samples.device)
        value = torch.as_tensor(correct, device=self.num_samples.device)
        self._check_samples(index, value)
        index, value = index.reshape(-1).long(), value.reshape(-1).long()
        self.num_samples.index_add_(0, index, torch.ones_like(index))
        self.num_correct.index_add_(0, index, value)

    def compute(self) -> Tensor:
        """Returns the mean over problems that have samples, float64 scalar."""
        return self.per_example()[self.num_samples > 0].mean()

    def per_example(self) -> Tensor:
        """Returns the estimate of each problem of this process, float64 ``[P]``; NaN where samples are too few."""
        return pass_at_k(self.num_samples, self.num_correct, self.k)

    def _check_samples(self, index: Tensor, value: Tensor) -> None:
        if index.shape != value.shape:
            raise ValueError(f"problem has shape {list(index.shape)} but correct has {list(value.shape)}")
        if not _is_integer(index) or value.dtype != torch.bool:
            raise ValueError(f"problem must be integer and correct bool, got {index.dtype} and {value.dtype}")
        if index.numel() and (int(index.min()) < 0 or int(index.max()) >= self.num_problems):
            raise ValueError(f"problem must be in 0..{self.num_problems - 1}, got {index.tolist()}")


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

"""Pass@k against drawing every subset of samples."""

from __future__ import annotations

import itertools

import pytest
import torch
from torchmetrics.utilities.data import dim_zero_sum

from hotfix.metrics.pass_at_k import PassAtK, pass_at_k


def brute_force(n: int, c: int, k: int) -> float:
    samples = [True] * c + [False] * (n - c)
    draws = [any(draw) for draw in itertools.combinations(samples, k)]
    return sum(draws) / len(draws)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
def test_equals_the_share_of_all_draws_with_a_correct_sample(k: int) -> None:
    cases = [(n, c) for n in range(k, 9) for c in range(n + 1)]
    n, c = torch.tensor(cases).unbind(-1)
    expected = torch.tensor([brute_force(*case, k) for case in cases], dtype=torch.float64)
    torch.testing.assert_close(pass_at_k(n, c, k), expected, rtol=0, atol=1e-14)


def test_known_numbers() -> None:
    # Chen et al. 2021: c / n for k = 1; 1 - (1/3 * 1/2) for 3 draws that all miss 7 of 10.
    found = pass_at_k(torch.tensor([200, 10]), torch.tensor([13, 7]), 1)
    torch.testing.assert_close(found, torch.tensor([0.065, 0.7], dtype=torch.float64))
    assert float(pass_at_k(torch.tensor([10]), torch.tensor([7]), 3)) == pytest.approx(1 - 1 / 120, abs=1e-15)


def test_large_counts_neither_overflow_nor_leave_the_unit_interval() -> None:
    n = torch.full((1001,), 100_000)
    found = pass_at_k(n, torch.arange(0, 100_001, 100), 1000)
    assert found[0] == 0
    assert found[-1] == 1
    assert bool((found.diff() >= 0).all())
    assert float(pass_at_k(torch.tensor([100_000]), torch.tensor([1]), 1000)) == pytest.approx(0.01, rel=1e-10)


def test_is_float64_and_nan_only_where_samples_are_too_few() -> None:
    found = pass_at_k(torch.tensor([0, 2, 3, 5]), torch.tensor([0, 2, 3, 0]), 3)
    assert found.dtype == torch.float64
    assert found.isnan().tolist() == [True, True, False, False]
    assert found[2:].tolist() == [1.0, 0.0]


def test_no_problems() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    assert pass_at_k(empty, empty, 1).shape == (0,)


@pytest.mark.parametrize(
    ("n", "c", "k", "message"),
    [
        ([1], [1], 0, "k must be at least 1, got 0"),
        ([1, 2], [1], 1, r"shape \[2\], num_correct \[1\]"),
        ([-1], [-2], 1, "must not be negative"),
        ([3], [-1], 1, "must not be negative"),
        ([3], [4], 1, "must not be above num_samples"),
        ([3.0], [1.0], 1, "must be integers, got torch.float32"),
    ],
)
def test_refuses(n: list[float], c: list[float], k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pass_at_k(torch.tensor(n), torch.tensor(c), k)


def test_metric_counts_samples_in_any_form() -> None:
    metric = PassAtK(3, k=2)
    metric.update(0, True)
    metric.update(torch.tensor(0), torch.tensor(False))
    metric.update(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[False, True], [True, True]]))
    assert metric.num_samples.tolist() == [3, 3, 0]
    assert metric.num_correct.tolist() == [1, 3, 0]
    torch.testing.assert_close(metric.per_example()[:2], torch.tensor([2 / 3, 1.0], dtype=torch.float64))
    assert float(metric.compute()) == pytest.approx((2 / 3 + 1) / 2)


def test_mean_is_nan_if_a_sampled_problem_has_too_few_samples_or_none_has_any() -> None:
    metric = PassAtK(2, k=2)
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert metric.compute().isnan()
    metric = PassAtK(2, k=2)
    metric.update(torch.tensor([0, 0, 1]), torch.tensor([True, True, True]))
    assert metric.compute().isnan()
    assert metric.per_example()[0] == 1


def test_two_processes_summed_equal_one() -> None:
    generator = torch.Generator().manual_seed(0)
    problem = torch.randint(5, (100,), generator=generator)
    correct = torch.rand(100, generator=generator) < 0.3
    whole, first, second = (PassAtK(5, k=3) for _ in range(3))
    whole.update(problem, correct)
    first.update(problem[:37], correct[:37])
    second.update(problem[37:], correct[37:])
    assert first.compute() != whole.compute()
    first.merge_state(second)
    assert torch.equal(first.per_example(), whole.per_example())
    assert set(whole._reductions.values()) == {dim_zero_sum}


def test_forward_returns_the_batch_and_keeps_the_total() -> None:
    metric = PassAtK(1)
    assert float(metric(0, True)) == 1
    assert float(metric(0, False)) == 0
    assert float(metric.compute()) == 0.5


def test_reset_forgets() -> None:
    metric = PassAtK(1)
    metric.update(0, True)
    metric.reset()
    metric.update(0, False)
    assert metric.compute() == 0
    assert (metric.is_differentiable, metric.higher_is_better, metric.full_state_update) == (False, True, False)


def test_metric_refuses() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0 and 1"):
        PassAtK(0)
    with pytest.raises(ValueError, match="at least 1, got 2 and 0"):
        PassAtK(2, k=0)
    metric = PassAtK(2)
    with pytest.raises(ValueError, match=r"problem must be in 0\.\.1, got \[2\]"):
        metric.update(torch.tensor([2]), torch.tensor([True]))
    with pytest.raises(ValueError, match=r"problem must be in 0\.\.1, got -1"):
        metric.update(-1, True)
    with pytest.raises(ValueError, match=r"problem has shape \[2\] but correct has \[1\]"):
        metric.update(torch.tensor([0, 1]), torch.tensor([True]))
    with pytest.raises(ValueError, match=r"correct bool, got torch.int64 and torch.float32"):
        metric.update(torch.tensor([0]), torch.tensor([0.5]))
    assert metric.num_samples.sum() == 0

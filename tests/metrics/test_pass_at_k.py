"""Pass@k against drawing every subset of samples."""

from __future__ import annotations

import itertools

import pytest
import torch
from torchmetrics.utilities.data import dim_zero_sum

from hotfix.errors import ConfigError
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


def test_metric_is_the_mean_of_the_function_over_problems() -> None:
    passed = [[True, False, False], [True, True, True], [False] * 5, [False, True, True, False]]
    metric = PassAtK(2, num_examples=4)
    for index, programs in enumerate(passed):
        metric.update(index, {"passed": programs})
    expected = [brute_force(len(programs), sum(programs), 2) for programs in passed]
    assert metric.per_example().tolist() == pytest.approx(expected, abs=1e-14)
    assert float(metric.compute()) == pytest.approx(sum(expected) / 4, abs=1e-14)


def test_records_of_one_problem_add_up() -> None:
    metric = PassAtK(2, num_examples=1)
    for programs in ([True], [False, False], [True]):
        metric.update(0, {"passed": programs})
    assert float(metric.compute()) == pytest.approx(brute_force(4, 2, 2), abs=1e-14)


def test_mean_is_nan_if_a_sampled_problem_has_too_few_programs_or_none_has_any() -> None:
    metric = PassAtK(2, num_examples=2)
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert metric.compute().isnan()
    metric = PassAtK(2, num_examples=2)
    metric.update(0, {"passed": [True, True]})
    metric.update(1, {"passed": [True]})
    assert metric.per_example()[0] == 1
    assert metric.compute().isnan()


def test_two_processes_summed_equal_one() -> None:
    generator = torch.Generator().manual_seed(0)
    passed = (torch.rand(20, 7, generator=generator) < 0.3).tolist()
    whole, first, second = (PassAtK(3, num_examples=20) for _ in range(3))
    for index, programs in enumerate(passed):
        whole.update(index, {"passed": programs})
        (first if index % 3 else second).update(index, {"passed": programs})
    expected = sum(brute_force(7, sum(programs), 3) for programs in passed) / 20
    first.merge_state(second)
    assert torch.equal(first.per_example(), whole.per_example())
    assert float(first.compute()) == pytest.approx(expected, abs=1e-14)
    assert set(whole._reductions.values()) == {dim_zero_sum}


def test_bind_sizes_and_clears() -> None:
    metric = PassAtK(1, num_examples=1)
    metric.update(0, {"passed": [True]})
    metric.bind(2)
    metric.update(1, {"passed": [False]})
    metric.update(0, {"passed": [False, True]})
    assert metric.per_example().tolist() == [0.5, 0.0]


def test_reset_forgets() -> None:
    metric = PassAtK(1, num_examples=1)
    metric.update(0, {"passed": [True]})
    metric.reset()
    metric.update(0, {"passed": [False]})
    assert metric.compute() == 0
    assert (metric.is_differentiable, metric.higher_is_better, metric.full_state_update) == (False, True, False)


def test_metric_refuses() -> None:
    with pytest.raises(ConfigError, match="k of pass@k is 0, expected at least 1"):
        PassAtK(0)
    with pytest.raises(IndexError):
        PassAtK(1, num_examples=2).update(2, {"passed": [True]})
    with pytest.raises(KeyError, match="passed"):
        PassAtK(1, num_examples=2).update(0, {"verdicts": []})

"""Sums by example, against a loop."""

from __future__ import annotations

import random

import pytest
import torch

from hotfix.losses.sequences import example_ids, first_of_each, mean_by_example, sum_by_example


@pytest.mark.parametrize("seed", range(20))
def test_equal_a_loop(seed: int) -> None:
    rng = random.Random(seed)
    rows = sorted(rng.choices(range(0, 12, 2), k=rng.randint(0, 15)))
    others = sorted(rng.choices(range(12), k=rng.randint(0, 5)))
    values = [rng.uniform(-3, 3) for _ in rows]
    ids = example_ids(torch.tensor(rows, dtype=torch.long), torch.tensor(others, dtype=torch.long))
    assert ids.tolist() == sorted({*rows, *others})
    row, value = torch.tensor(rows, dtype=torch.long), torch.tensor(values)
    own = [[v for r, v in zip(rows, values, strict=True) if r == i] for i in ids.tolist()]
    assert sum_by_example(value, row, ids).tolist() == pytest.approx([sum(v) for v in own], abs=1e-5)
    assert mean_by_example(value, row, ids).tolist() == pytest.approx([sum(v) / max(1, len(v)) for v in own], abs=1e-5)
    assert first_of_each(row).tolist() == [r not in rows[:i] for i, r in enumerate(rows)]

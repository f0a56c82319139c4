"""The second moments are those of the inputs themselves, over the chosen positions of all passes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hotfix.errors import ModelError
from hotfix.models.input_moments import InputMoments


class Block(nn.Module):
    """Two layers that read the same tensor, and one that reads another."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.down = nn.Linear(3, 3), nn.Linear(3, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.q(x).sum(-1, keepdim=True) * self.k(x))


def test_equals_the_mean_of_outer_products_over_two_passes() -> None:
    torch.manual_seed(0)
    block = Block()
    moments = InputMoments([block.q, block.k, block.down])
    seen: list[Tensor] = []
    for length in (4, 7):
        x, chosen = torch.randn(2, length, 3), torch.rand(2, length) > 0.4
        with moments.over(chosen):
            block(x)
        seen.append(x[chosen])
    rows = torch.cat(seen)
    expected = torch.stack([torch.outer(row, row) for row in rows]).mean(0)
    torch.testing.assert_close(moments[block.q], expected)
    torch.testing.assert_close(moments[block.k], expected)
    inner = block.q(rows).sum(-1, keepdim=True) * block.k(rows)
    torch.testing.assert_close(moments[block.down], inner.T @ inner / len(inner))


def test_half_precision_passes_are_summed_in_float32() -> None:
    layer = nn.Linear(2, 2)
    moments = InputMoments([layer])
    x = torch.full((1, 4096, 2), 1.0009765625)
    with torch.autocast("cpu", dtype=torch.bfloat16), moments.over(torch.ones(1, 4096, dtype=torch.bool)):
        layer(x)
    assert moments[layer].dtype == torch.float32
    torch.testing.assert_close(moments[layer], torch.full((2, 2), 1.0009765625**2))


def test_a_layer_that_was_not_run_is_not_there_and_hooks_are_gone() -> None:
    used, unused = nn.Linear(2, 2), nn.Linear(2, 2)
    moments = InputMoments([used, unused])
    with moments.over(torch.ones(1, 3, dtype=torch.bool)):
        used(torch.ones(1, 3, 2))
    assert used in moments
    assert unused not in moments
    used(torch.ones(9, 2))
    torch.testing.assert_close(moments[used], torch.ones(2, 2))


def test_a_layer_whose_input_is_not_laid_out_as_the_rows_is_refused() -> None:
    layer = nn.Linear(2, 2)
    with (
        pytest.raises(ModelError, match=r"Linear has the shape \(3, 2\), expected \(1, 3\)"),
        InputMoments([layer]).over(torch.ones(1, 3, dtype=torch.bool)),
    ):
        layer(torch.ones(3, 2))


def test_a_layer_that_runs_twice_is_refused() -> None:
    layer = nn.Linear(2, 2)
    chosen = torch.ones(1, 3, dtype=torch.bool)
    with (
        pytest.raises(ModelError, match="Linear runs more than once for the same rows"),
        InputMoments([layer]).over(chosen),
    ):
        layer(layer(torch.ones(1, 3, 2)))
    layer(layer(torch.ones(1, 3, 2)))

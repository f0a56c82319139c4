"""The mean of +log p against one row at a time; it has no floor."""

from __future__ import annotations

import math

import pytest
import torch
from loss_bench import Bench, assert_same, mean_nll
from torch import Tensor

from hotfix.data.packing import Layout
from hotfix.losses import NLL, GradientAscent, Unlikelihood
from hotfix.types import SCOPES, Side, TokenScope


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("scope", SCOPES)
def test_equals_one_row_at_a_time(bench: Bench, scope: TokenScope, layout: Layout) -> None:
    expected = -mean_nll(bench.tokens("buggy", scope))
    assert_same(GradientAscent(scope=scope), expected, bench, bench.batch(layout=layout))


def test_is_the_negative_of_learning_the_same_tokens(bench: Bench) -> None:
    assert torch.equal(GradientAscent()(bench.passes()), -NLL("buggy", "edited")(bench.passes()))


class OneToken:
    """A buggy token of a given log p."""

    def __init__(self, log_p: float) -> None:
        self.log_p = torch.tensor([log_p], requires_grad=True)

    def log_probs(self, side: Side, scope: TokenScope = "all") -> Tensor:
        return self.log_p

    def mean(self, values: Tensor, side: Side, scope: TokenScope) -> Tensor:
        return values.mean()


@pytest.mark.parametrize("log_p", [-0.5, -5.0, -50.0, -500.0])
def test_has_no_floor_and_its_push_never_fades(log_p: float) -> None:
    ascent, bounded = OneToken(log_p), OneToken(log_p)
    value = GradientAscent()(ascent)  # type: ignore[arg-type]
    value.backward()
    assert value.item() == log_p
    assert ascent.log_p.grad is not None
    assert ascent.log_p.grad.item() == 1
    # Unlikelihood's is p / (1 - p).
    Unlikelihood(first_only=False)(bounded).backward()  # type: ignore[arg-type]
    assert bounded.log_p.grad is not None
    assert bounded.log_p.grad.item() == pytest.approx(1 / math.expm1(-log_p), rel=1e-5, abs=1e-30)

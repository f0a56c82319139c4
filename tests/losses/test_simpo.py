"""SimPO against one row at a time; a pair that is right already is left alone, whatever the base thought."""

from __future__ import annotations

import math

import pytest
import torch
from loss_bench import Bench, assert_same

from hotfix.data.packing import Layout
from hotfix.errors import ConfigError
from hotfix.losses import SimPO
from hotfix.losses.simpo import simpo
from hotfix.types import SCOPES, TokenScope


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5])
@pytest.mark.parametrize("scope", SCOPES)
def test_equals_one_row_at_a_time(
    bench: Bench, scope: TokenScope, gamma: float, normalised: bool, layout: Layout
) -> None:
    beta, values = 0.3, []
    for fixed, buggy in zip(bench.sequences("fixed", scope), bench.sequences("buggy", scope), strict=True):
        won, lost = (
            torch.stack([token.log_p for token in side]).sum() / (len(side) if normalised else 1)
            if side
            else torch.zeros(())
            for side in (fixed, buggy)
        )
        values.append(-torch.sigmoid(beta * (won - lost) - gamma).log() * bool(fixed or buggy))
    expected = torch.stack(values).mean()
    assert_same(SimPO(scope, beta, gamma, normalised), expected, bench, bench.batch(layout=layout))


def test_of_one_pair_it_is_the_cross_entropy_of_the_choice() -> None:
    fixed, buggy = math.log(0.2), math.log(0.6)
    value = simpo(torch.tensor([fixed]), torch.tensor([buggy]), beta=1.0)
    assert value.item() == pytest.approx(-math.log(0.2 / 0.8), rel=1e-6)


def test_the_push_is_as_large_as_the_policy_is_wrong() -> None:
    gaps = torch.tensor([-9.0, 0.0, 9.0], requires_grad=True)
    [pushes] = torch.autograd.grad(simpo(gaps, torch.zeros(3), 1.0).sum(), gaps)
    assert pushes.tolist() == pytest.approx([-1.0, -0.5, 0.0], abs=1e-3)


def test_beta_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="beta of SimPO is 0, expected more than 0"):
        SimPO(beta=0)

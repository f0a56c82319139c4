"""SimNPO against one row at a time; it never looks at the base."""

from __future__ import annotations

import pytest
import torch
from loss_bench import Bench, assert_same, mean_nll

from hotfix.data.packing import Layout
from hotfix.errors import ConfigError
from hotfix.losses import ModelPasses, SimNPO
from hotfix.losses.simnpo import simnpo
from hotfix.types import SCOPES, TokenScope


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("delta", [0.0, 4.0])
@pytest.mark.parametrize("scope", SCOPES)
def test_equals_one_row_at_a_time(bench: Bench, scope: TokenScope, delta: float, layout: Layout) -> None:
    # The paper's form: -(2 / beta) log sigmoid(-beta / |y| log p - gamma), gamma = beta delta.
    beta = 0.4
    nlls = [mean_nll(sequence) for sequence in bench.sequences("buggy", scope) if sequence]
    values = [-2 / beta * (beta * nll - beta * delta).sigmoid().log() for nll in nlls]
    expected = torch.stack(values).sum() / len(bench.pairs)
    assert_same(SimNPO(scope=scope, beta=beta, delta=delta), expected, bench, bench.batch(layout=layout))


def test_its_settings_are_open_unlearnings() -> None:
    term = SimNPO()
    assert (term.beta, term.delta, term.scope, term.side) == (4.5, 0.0, "edited", "buggy")
    assert simnpo(torch.tensor([0.0]), term.beta, term.delta).item() == pytest.approx(2 / 4.5 * 0.6931472, rel=1e-6)


def test_needs_no_base(bench: Bench) -> None:
    def never(_: torch.nn.Module) -> None:
        raise AssertionError

    passes = ModelPasses(bench.policy, bench.batch(), never)  # type: ignore[arg-type]
    assert SimNPO()(passes) > 0


def test_a_long_edit_weighs_what_a_short_one_does() -> None:
    assert torch.equal(simnpo(torch.tensor([2.0]), 4.5, 0.0), simnpo(torch.full((7,), 2.0).mean()[None], 4.5, 0.0))


def test_refuses_a_beta_of_zero() -> None:
    with pytest.raises(ConfigError, match="beta of SimNPO is 0, expected more than 0"):
        SimNPO(beta=0)

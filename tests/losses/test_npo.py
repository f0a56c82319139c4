"""NPO against one row at a time; its push fades, and towards beta 0 it is gradient ascent."""

from __future__ import annotations

import math

import pytest
import torch
from loss_bench import Bench, assert_same, gradients, log_ratio

from hotfix.data.packing import Layout
from hotfix.errors import ConfigError
from hotfix.losses import NPO
from hotfix.losses.npo import npo
from hotfix.losses.sequences import PairSide
from hotfix.types import SCOPES, TokenScope


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize(("side", "beta"), [("buggy", 0.1), ("fixed", 0.7)])
@pytest.mark.parametrize("scope", SCOPES)
def test_equals_one_row_at_a_time(bench: Bench, side: PairSide, scope: TokenScope, beta: float, layout: Layout) -> None:
    # The other form of the paper's equation 3: (2 / beta) log(1 + (p / p_base)^beta).
    ratios = [log_ratio(sequence).exp() for sequence in bench.sequences(side, scope) if sequence]
    expected = torch.stack([2 / beta * torch.log1p(ratio**beta) for ratio in ratios]).sum() / len(bench.pairs)
    assert_same(NPO(side, scope, beta), expected, bench, bench.batch(layout=layout))


def test_at_the_base_it_is_gradient_ascent() -> None:
    bench = Bench(moved=0.0)
    value = NPO(beta=0.1)(bench.passes())
    assert value.item() == pytest.approx(20 * math.log(2), rel=1e-6)
    ascent = torch.stack([torch.stack([t.log_p for t in s]).sum() for s in bench.sequences("buggy", "edited")]).mean()
    found, expected = gradients(value, bench.trained()), gradients(ascent, bench.trained())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("log_ratio", "slope"), [(0.0, 1.0), (10.0, 1.4621172), (-10.0, 0.5378828), (-1000.0, 0.0)])
def test_the_push_fades_below_the_base(log_ratio: float, slope: float) -> None:
    x = torch.tensor([log_ratio], requires_grad=True)
    value = npo(x, beta=0.1)
    assert value.item() >= 0
    assert torch.autograd.grad(value.sum(), x)[0].item() == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
def test_refuses_a_beta_that_is_not_above_zero(beta: float) -> None:
    with pytest.raises(ConfigError, match=f"beta of NPO is {beta}, expected more than 0"):
        NPO(beta=beta)

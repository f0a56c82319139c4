"""The corrected target and the cross-entropy to it, against one row at a time."""

from __future__ import annotations

import pytest
import torch
from loss_bench import Bench, Token, assert_same
from torch import Tensor

from hotfix.data.packing import Layout
from hotfix.errors import ConfigError
from hotfix.losses import UNDIAL
from hotfix.losses.undial import undial_target
from hotfix.types import SCOPES, TokenScope


def distilled(token: Token, beta: float) -> Tensor:
    lowered = token.reference.clone()
    lowered[token.token] -= beta
    return -(lowered.softmax(-1) * token.logits.log_softmax(-1)).sum()


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("scope", SCOPES)
def test_equals_one_row_at_a_time(bench: Bench, scope: TokenScope, layout: Layout) -> None:
    expected = torch.stack([distilled(t, 10.0) for t in bench.tokens("buggy", scope)]).mean()
    assert_same(UNDIAL(scope=scope), expected, bench, bench.batch(layout=layout))


def test_the_token_ends_at_the_odds_promised_and_the_others_keep_their_proportions() -> None:
    base = torch.tensor([[0.7, 0.2, 0.1]])
    target = undial_target(base.log(), torch.tensor([0]), beta=3.0)[0]
    assert (target[0] / (1 - target[0])).item() == pytest.approx(0.7 / 0.3 * 0.04978707, rel=1e-5)
    assert (target[1] / target[2]).item() == pytest.approx(2, rel=1e-5)
    assert target.sum().item() == pytest.approx(1, rel=1e-6)


def test_a_policy_at_the_target_stays_there() -> None:
    base, token = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    target = undial_target(base, token, 10.0)
    policy = target.log().requires_grad_()
    torch.nn.functional.cross_entropy(policy, target).backward()
    assert policy.grad is not None
    assert policy.grad.abs().max() < 1e-6


def test_the_base_s_logits_are_left_alone() -> None:
    base = torch.zeros(1, 3)
    undial_target(base, torch.tensor([1]), 5.0)
    assert torch.count_nonzero(base) == 0


def test_refuses_a_beta_of_zero() -> None:
    with pytest.raises(ConfigError, match=r"beta of UNDIAL is 0\.0, expected more than 0"):
        UNDIAL(beta=0.0)

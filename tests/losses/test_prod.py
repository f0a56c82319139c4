"""PROD's target, token by token in plain Python, and the cross-entropy to it, one row at a time."""

from __future__ import annotations

import math

import pytest
import torch
from loss_bench import Bench, assert_same

from hotfix.data.packing import Layout
from hotfix.errors import ConfigError
from hotfix.losses import PROD
from hotfix.losses.prod import prod_target
from hotfix.types import SCOPES, TokenScope


def by_hand(base: list[float], token: int, top_p: float, temperature: float, alpha: float) -> list[float]:
    """The token away, likeliest first until `top_p` is reached, sharpened, renormalised."""
    left = {i: p for i, p in enumerate(base) if i != token}
    kept: dict[int, float] = {}
    for i, p in sorted(left.items(), key=lambda item: -item[1]):
        if math.fsum(kept.values()) >= top_p * math.fsum(left.values()):
            break
        kept[i] = p
    sharpened = {i: p ** (1 / temperature) for i, p in kept.items()}
    target = [sharpened.get(i, 0.0) / math.fsum(sharpened.values()) for i in range(len(base))]
    target[token] = -alpha * base[token]
    return target


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize(("top_p", "temperature", "alpha"), [(0.8, 1.0, 0.0), (0.3, 0.8, 0.5), (1.0, 2.0, 0.0)])
@pytest.mark.parametrize("scope", SCOPES)
def test_equals_one_row_at_a_time(
    bench: Bench, scope: TokenScope, top_p: float, temperature: float, alpha: float, layout: Layout
) -> None:
    values = []
    for t in bench.tokens("buggy", scope):
        target = by_hand(t.reference.double().softmax(-1).tolist(), t.token, top_p, temperature, alpha)
        values.append(-(torch.tensor(target) * t.logits.log_softmax(-1)).sum())
    term = PROD("buggy", scope, top_p, temperature, alpha)
    assert_same(term, torch.stack(values).mean(), bench, bench.batch(layout=layout))


def test_the_likeliest_other_token_is_always_kept() -> None:
    target = prod_target(torch.tensor([[0.9, 0.06, 0.04]]).log(), torch.tensor([0]), 1e-6, 1.0, 0.0)
    assert target.tolist() == [[0.0, 1.0, 0.0]]


def test_a_base_that_is_sure_still_gives_a_target() -> None:
    target = prod_target(torch.tensor([[200.0, 1.0, 0.0]]), torch.tensor([0]), 1.0, 1.0, 0.0)
    assert target[0].tolist() == pytest.approx([0, 0.7310586, 0.2689414], rel=1e-5, abs=1e-12)


def test_without_alpha_nothing_pulls_at_the_token_but_the_target() -> None:
    base, token = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log(), torch.tensor([0])
    policy = base.clone().requires_grad_()
    torch.nn.functional.cross_entropy(policy, prod_target(base, token, 0.8, 1.0, 0.0)).backward()
    assert policy.grad is not None
    # The gradient of a cross-entropy is p minus the target.
    assert policy.grad[0].tolist() == pytest.approx([0.5, 0.3 - 2 / 3, 0.15 - 1 / 3, 0.05], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("top_p", 0.0, "more than 0"),
        ("top_p", 1.5, "at most 1"),
        ("temperature", 0.0, "more than 0"),
        ("alpha", -0.1, "0 or more"),
    ],
)
def test_refuses_what_has_no_meaning(name: str, value: float, wanted: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} of PROD is {value}, expected {wanted}"):
        PROD(**{name: value})  # type: ignore[arg-type]

"""The mean of -log(1 - p) against one row at a time."""

from __future__ import annotations

import pytest
import torch
from loss_bench import Bench, Token, assert_same, gradients
from torch import Tensor

from hotfix.data.packing import Layout
from hotfix.losses import Unlikelihood
from hotfix.types import SCOPES, TokenScope


def minus_log_of_the_rest(token: Token) -> Tensor:
    # From the other tokens' probabilities rather than 1 - p.
    others = torch.cat([token.logits[: token.token], token.logits[token.token + 1 :]])
    return -(others.logsumexp(-1) - token.logits.logsumexp(-1))


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("scope", SCOPES)
def test_every_token_equals_one_row_at_a_time(bench: Bench, scope: TokenScope, layout: Layout) -> None:
    expected = torch.stack([minus_log_of_the_rest(t) for t in bench.tokens("buggy", scope)]).mean()
    assert_same(Unlikelihood(scope=scope, first_only=False), expected, bench, bench.batch(layout=layout))


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("scope", SCOPES)
def test_first_tokens_equal_one_row_at_a_time(bench: Bench, scope: TokenScope, layout: Layout) -> None:
    first = {t.example: t for t in reversed(bench.tokens("buggy", scope))}
    expected = torch.stack([minus_log_of_the_rest(t) for t in first.values()]).sum() / len(bench.pairs)
    assert_same(Unlikelihood(scope=scope), expected, bench, bench.batch(layout=layout))


def test_the_first_edited_token_is_where_the_sides_part(bench: Bench) -> None:
    first = {t.example: t for t in reversed(bench.tokens("buggy", "edited"))}
    for example, pair in enumerate(bench.pairs):
        assert first[example].token == pair.buggy.ids[0] != pair.fixed.ids[0]


def test_a_step_makes_the_token_less_likely() -> None:
    bench = Bench()
    before = Unlikelihood()(bench.passes())
    downhill = gradients(before, bench.trained())
    with torch.no_grad():
        for name, weight in bench.trained().items():
            weight.sub_(downhill[name], alpha=1e-2)
        assert Unlikelihood()(bench.passes()) < before

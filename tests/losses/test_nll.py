"""The mean of -log p against one row at a time."""

from __future__ import annotations

import pytest
import torch
from loss_bench import Bench, assert_same

from hotfix.data.packing import Layout
from hotfix.errors import ConfigError
from hotfix.losses import NLL
from hotfix.types import SCOPES, SIDES, Side, TokenScope

_CASES = [(side, scope) for side in SIDES for scope in SCOPES if (side, scope) != ("retain", "edited")]


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize(("side", "scope"), _CASES)
def test_equals_one_row_at_a_time(bench: Bench, side: Side, scope: TokenScope, layout: Layout) -> None:
    tokens = bench.tokens(side, scope)
    expected = torch.stack([-t.logits.log_softmax(-1)[t.token] for t in tokens]).mean()
    assert_same(NLL(side, scope), expected, bench, bench.batch(layout=layout))


def test_scopes_are_different_tokens_and_together_all(bench: Bench) -> None:
    counts = {scope: len(bench.tokens("fixed", scope)) for scope in SCOPES}
    assert counts["edited"] > len(bench.pairs)
    assert counts["unedited"] > len(bench.pairs)
    assert counts["all"] == counts["edited"] + counts["unedited"]


@pytest.mark.parametrize("max_tokens", [1, 7, 20])
def test_a_part_stands_for_all(bench: Bench, max_tokens: int) -> None:
    tokens = bench.tokens("fixed", "all")
    assert len(tokens) > 20
    places = [round(i * (len(tokens) - 1) / max(1, max_tokens - 1)) for i in range(max_tokens)]
    expected = torch.stack([-tokens[p].logits.log_softmax(-1)[tokens[p].token] for p in places]).mean()
    assert_same(NLL("fixed", "all", max_tokens=max_tokens), expected, bench)


def test_a_part_stands_for_all_where_the_head_is_not_frozen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    term = NLL("fixed", "all", max_tokens=7)
    expected = term(bench.passes())
    monkeypatch.setattr("hotfix.losses.passes.fixed_head", lambda model: None)
    torch.testing.assert_close(term(bench.passes()), expected)


def test_a_limit_above_the_number_of_tokens_changes_nothing(bench: Bench) -> None:
    few, all_tokens = NLL("fixed", "all", max_tokens=10_000), NLL("fixed", "all")
    assert torch.equal(few(bench.passes()), all_tokens(bench.passes()))


def test_refuses_no_tokens() -> None:
    with pytest.raises(ConfigError, match="max_tokens of NLL is 0, expected at least 1 or null"):
        NLL(max_tokens=0)

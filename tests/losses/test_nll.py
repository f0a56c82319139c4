"""The mean of -log p against one row at a time."""

from __future__ import annotations

import pytest
import torch
from loss_bench import Bench, assert_same

from hotfix.data.packing import Layout
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

"""The contrast of the two sides where they part, and of policy and base on all edited tokens, row by row."""

from __future__ import annotations

import math

import pytest
import torch
from loss_bench import Bench, assert_same

from hotfix.data.packing import Layout
from hotfix.losses import SVENContrast


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_of_the_sides_equals_one_row_at_a_time(bench: Bench, layout: Layout) -> None:
    shares = []
    for pair, tokens in zip(bench.pairs, bench.sequences("fixed", "edited"), strict=True):
        # Both probabilities from the one distribution at the edit point.
        p = tokens[0].logits.softmax(-1)
        shares.append(p[pair.fixed.ids[0]] / (p[pair.fixed.ids[0]] + p[pair.buggy.ids[0]]))
    assert_same(SVENContrast(), -torch.stack(shares).log().mean(), bench, bench.batch(layout=layout))


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_to_the_base_equals_one_row_at_a_time(bench: Bench, layout: Layout) -> None:
    means = []
    for side in ("fixed", "buggy"):
        p = torch.stack([t.log_p for t in bench.tokens(side, "edited")]).exp()  # type: ignore[arg-type]
        q = torch.stack([t.base_log_p for t in bench.tokens(side, "edited")]).exp()  # type: ignore[arg-type]
        means.append(-((p if side == "fixed" else q) / (p + q)).log().mean())
    assert_same(SVENContrast("base"), means[0] + means[1], bench, bench.batch(layout=layout))


def test_policy_and_base_are_even_before_training() -> None:
    bench = Bench(moved=0.0)
    assert SVENContrast("base")(bench.passes()).item() == pytest.approx(2 * math.log(2), rel=1e-6)


def test_both_sides_have_the_same_context_where_they_part(bench: Bench) -> None:
    for fixed, buggy in zip(bench.sequences("fixed", "edited"), bench.sequences("buggy", "edited"), strict=True):
        torch.testing.assert_close(fixed[0].logits, buggy[0].logits, rtol=1e-5, atol=1e-5)
        assert fixed[0].token != buggy[0].token

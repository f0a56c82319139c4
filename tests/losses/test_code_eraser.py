"""Ascent on the secret, descent on the rest, away from the base: against one row at a time."""

from __future__ import annotations

import pytest
import torch
from loss_bench import Bench, assert_same, mean_nll

from hotfix.data.packing import Layout
from hotfix.errors import ConfigError
from hotfix.losses import CodeEraser
from hotfix.losses.sequences import PairSide


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize(
    ("side", "gamma", "divergence"), [("buggy", 0.1, 0.1), ("buggy", 1.0, 0.0), ("fixed", 0.0, 2.0)]
)
def test_equals_one_row_at_a_time(
    bench: Bench, side: PairSide, gamma: float, divergence: float, layout: Layout
) -> None:
    secret, other = bench.tokens(side, "edited"), bench.tokens(side, "unedited")
    kl = [
        torch.nn.functional.kl_div(
            t.logits.log_softmax(-1), t.reference.log_softmax(-1), log_target=True, reduction="sum"
        )
        for t in secret
    ]
    expected = -mean_nll(secret) + gamma * mean_nll(other) - divergence * torch.stack(kl).mean()
    assert_same(CodeEraser(side, gamma, divergence), expected, bench, bench.batch(layout=layout))


def test_its_settings_are_the_published_ones() -> None:
    term = CodeEraser()
    assert (term.side, term.gamma, term.divergence) == ("buggy", 0.1, 0.1)


@pytest.mark.parametrize("name", ["gamma", "divergence"])
def test_refuses_a_factor_below_zero(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} of CodeEraser is -1.0, expected 0 or more"):
        CodeEraser(**{name: -1.0})

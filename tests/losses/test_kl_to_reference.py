"""KL(base || policy) against one row at a time; it must pull back once the policy has left the base."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from loss_bench import Bench, Token, assert_same, gradients
from torch import Tensor

from hotfix.adapters import FullFineTuning
from hotfix.data.packing import Layout
from hotfix.errors import ConfigError
from hotfix.losses import NLL, KLToReference
from hotfix.models.tiny import tiny_model
from hotfix.types import SCOPES, SIDES, Side, TokenScope


def kl(token: Token) -> Tensor:
    return torch.nn.functional.kl_div(
        token.logits.log_softmax(-1), token.reference.log_softmax(-1), log_target=True, reduction="sum"
    )


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize(
    ("sides", "scope"),
    [(None, "unedited"), ({"fixed": 2.0, "buggy": 0.5}, "all"), ({"buggy": 1.0}, "edited"), ({"retain": 3.0}, "all")],
)
def test_equals_one_row_at_a_time(
    bench: Bench, sides: dict[Side, float] | None, scope: TokenScope, layout: Layout
) -> None:
    factors = sides or {"fixed": 0.1, "retain": 1.0}
    means = [f * torch.stack([kl(t) for t in bench.tokens(side, scope)]).mean() for side, f in factors.items()]
    assert_same(KLToReference(sides, scope), torch.stack(means).sum(), bench, bench.batch(layout=layout))


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize(("side", "scope"), [(s, c) for s in SIDES for c in SCOPES if (s, c) != ("retain", "edited")])
def test_reverse_equals_one_row_at_a_time(bench: Bench, side: Side, scope: TokenScope, layout: Layout) -> None:
    tokens = bench.tokens(side, scope)
    terms = [(t.logits.softmax(-1) * (t.logits.log_softmax(-1) - t.reference.log_softmax(-1))).sum() for t in tokens]
    term = KLToReference({side: 1.0}, scope, direction="reverse")
    assert_same(term, torch.stack(terms).mean(), bench, bench.batch(layout=layout))


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_head_that_trains_is_part_of_the_divergence(direction: Literal["forward", "reverse"]) -> None:
    bench, adapter = Bench(), FullFineTuning(["mlp", "lm_head"])
    bench.adapter, bench.policy = adapter, adapter.attach(tiny_model())  # type: ignore[assignment]
    with torch.no_grad():
        for weight in bench.trained().values():
            weight.mul_(1.2)
    tokens = bench.tokens("fixed", "all")
    pairs = [(t.reference, t.logits) if direction == "forward" else (t.logits, t.reference) for t in tokens]
    expected = torch.stack([(p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum() for p, q in pairs]).mean()
    assert expected > 1e-4
    assert_same(KLToReference({"fixed": 1.0}, "all", direction=direction), expected, bench)


def test_the_directions_differ_and_forward_is_the_default() -> None:
    bench = Bench(moved=0.5)
    with torch.no_grad():  # both directions are half the variance of a small shift, so the shift has to be large
        bench.policy.get_output_embeddings().weight.mul_(5)
    values = [KLToReference({"fixed": 1.0}, "all", direction=d)(bench.passes()) for d in ("forward", "reverse")]
    assert torch.equal(KLToReference({"fixed": 1.0}, "all")(bench.passes()), values[0])
    assert abs(values[0] - values[1]) > 1e-5


@pytest.mark.parametrize("max_tokens", [1, 7, 20])
def test_a_part_stands_for_all(bench: Bench, max_tokens: int) -> None:
    tokens = bench.tokens("fixed", "unedited")
    assert len(tokens) > 20
    places = [round(i * (len(tokens) - 1) / max(1, max_tokens - 1)) for i in range(max_tokens)]
    expected = torch.stack([kl(tokens[place]) for place in places]).mean()
    assert_same(KLToReference({"fixed": 1.0}, max_tokens=max_tokens), expected, bench)


def test_a_limit_above_the_number_of_tokens_changes_nothing(bench: Bench) -> None:
    few, all_tokens = KLToReference({"retain": 1.0}, max_tokens=10_000), KLToReference({"retain": 1.0})
    assert torch.equal(few(bench.passes()), all_tokens(bench.passes()))


def test_is_zero_at_the_base_and_pulls_back_after_one_step() -> None:
    bench = Bench(moved=0.0)
    term, weights = KLToReference(), bench.trained()
    at_base = term(bench.passes())
    assert abs(at_base.item()) < 1e-6
    assert max(float(g.abs().max()) for g in gradients(at_base, weights).values()) < 1e-6
    step = gradients(NLL()(bench.passes()), weights)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.sub_(step[name], alpha=0.5)
    moved = term(bench.passes())
    pull = gradients(moved, weights)
    assert moved.item() > 1e-5
    assert max(float(g.abs().max()) for g in pull.values()) > 1e-4
    with torch.no_grad():
        for name, weight in weights.items():
            weight.sub_(pull[name], alpha=0.1)
        assert term(bench.passes()) < moved


def test_refuses_no_tokens() -> None:
    with pytest.raises(ConfigError, match="max_tokens of KLToReference is 0, expected at least 1 or null"):
        KLToReference(max_tokens=0)

"""DPO and DPO-Positive against one row at a time; what the sides share is pushed neither way."""

from __future__ import annotations

import math

import pytest
import torch
from loss_bench import Bench, assert_same, gradients, log_ratio
from torch import Tensor

from hotfix.data.packing import Layout
from hotfix.errors import ConfigError
from hotfix.losses import DPO
from hotfix.losses.dpo import dpo
from hotfix.types import SCOPES, Side, TokenScope


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("positive", [0.0, 5.0])
@pytest.mark.parametrize("scope", SCOPES)
def test_equals_one_row_at_a_time(
    bench: Bench, scope: TokenScope, positive: float, normalised: bool, layout: Layout
) -> None:
    beta, values = 0.3, []
    for fixed, buggy in zip(bench.sequences("fixed", scope), bench.sequences("buggy", scope), strict=True):
        won, lost = (
            log_ratio(side) / (len(side) if normalised else 1) if side else torch.zeros(()) for side in (fixed, buggy)
        )
        margin = won - lost - positive * torch.maximum(-won, torch.zeros(()))
        values.append(-torch.sigmoid(beta * margin).log() * bool(fixed or buggy))
    expected = torch.stack(values).mean()
    assert_same(DPO(scope, beta, normalised, positive), expected, bench, bench.batch(layout=layout))


def test_at_the_base_it_pulls_the_sides_apart_by_half_of_beta() -> None:
    bench = Bench(moved=0.0)
    value = DPO(beta=0.1)(bench.passes())
    assert value.item() == pytest.approx(math.log(2), rel=1e-6)
    gap = [
        torch.stack([t.log_p for t in buggy]).sum() - torch.stack([t.log_p for t in fixed]).sum()
        for fixed, buggy in zip(bench.sequences("fixed", "edited"), bench.sequences("buggy", "edited"), strict=True)
    ]
    expected = gradients(0.05 * torch.stack(gap).mean(), bench.trained())
    torch.testing.assert_close(gradients(value, bench.trained()), expected, rtol=1e-4, atol=1e-6)


class LeafPasses:
    """Every token's log-prob a weight of its own, as though no two shared a parameter."""

    def __init__(self, bench: Bench) -> None:
        self._targets, self._pairs = bench.batch().targets, len(bench.pairs)
        generator = torch.Generator().manual_seed(0)
        shape = {side: len(self._targets[side].token) for side in ("fixed", "buggy")}
        self.leaves = {s: torch.randn(n, generator=generator).requires_grad_() for s, n in shape.items()}

    def log_probs(self, side: Side, scope: TokenScope = "all") -> Tensor:
        return self.leaves[side][self._in(side, scope)]

    def reference_log_probs(self, side: Side, scope: TokenScope = "all") -> Tensor:
        return torch.zeros(int(self._in(side, scope).sum()))

    def rows(self, side: Side, scope: TokenScope = "all") -> Tensor:
        return self._targets[side].example[self._in(side, scope)]

    def example_mean(self, values: Tensor) -> Tensor:
        return values.sum() / self._pairs

    def edited(self, side: Side) -> Tensor:
        return self._targets[side].edited

    def _in(self, side: Side, scope: TokenScope) -> Tensor:
        edited = self.edited(side)
        return torch.ones_like(edited) if scope == "all" else edited if scope == "edited" else ~edited


def test_shared_tokens_are_pushed_neither_way(bench: Bench) -> None:
    passes = LeafPasses(bench)
    DPO("edited", 0.5)(passes).backward()  # type: ignore[arg-type]
    for side, sign in (("fixed", -1), ("buggy", 1)):
        push, edited = passes.leaves[side].grad, passes.edited(side)  # type: ignore[arg-type]
        assert push is not None
        assert torch.count_nonzero(push[~edited]) == 0
        assert (sign * push[edited] > 0).all()


def test_in_all_tokens_the_shared_beginning_cancels(bench: Bench) -> None:
    passes = LeafPasses(bench)
    DPO("all", 0.5)(passes).backward()  # type: ignore[arg-type]
    fixed, buggy = (passes.leaves[side].grad for side in ("fixed", "buggy"))
    assert fixed is not None
    assert buggy is not None
    for example, pair in enumerate(bench.pairs):
        pushes = [g[passes.rows(s) == example] for g, s in ((fixed, "fixed"), (buggy, "buggy"))]  # type: ignore[arg-type]
        shared = len(pair.shared) - 1
        assert torch.equal(pushes[0][:shared], -pushes[1][:shared])
        assert (pushes[0][:shared] != 0).all()


def test_positive_raises_a_fixed_side_that_sank_with_the_buggy_one() -> None:
    # Both are less likely than the base had them, the buggy one more so: DPO is content, DPO-Positive is not.
    fixed, buggy = (torch.tensor([x], requires_grad=True) for x in (-2.0, -6.0))
    plain, cured = dpo(fixed, buggy, 0.5), dpo(fixed, buggy, 0.5, positive=5.0)
    assert plain.item() == pytest.approx(math.log1p(math.exp(-2)), rel=1e-6)
    assert cured.item() == pytest.approx(math.log1p(math.exp(3)), rel=1e-6)
    pull = [torch.autograd.grad(value.sum(), fixed)[0].item() for value in (plain, cured)]
    assert pull[1] < 20 * pull[0] < 0


def test_positive_changes_nothing_above_the_base() -> None:
    fixed, buggy = torch.tensor([0.0, 3.0]), torch.tensor([1.0, -1.0])
    assert torch.equal(dpo(fixed, buggy, 0.1, positive=50.0), dpo(fixed, buggy, 0.1))


def test_extremes_are_finite() -> None:
    fixed, buggy = torch.tensor([-1e4, 1e4], requires_grad=True), torch.tensor([1e4, -1e4])
    value = dpo(fixed, buggy, 1.0, positive=1.0)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert fixed.grad is not None
    assert torch.isfinite(fixed.grad).all()


@pytest.mark.parametrize(("name", "value"), [("beta", 0.0), ("positive", -1.0)])
def test_refuses_what_has_no_meaning(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{name} of DPO is {value}, expected (more than 0|0 or more)"):
        DPO(**{name: value})  # type: ignore[arg-type]

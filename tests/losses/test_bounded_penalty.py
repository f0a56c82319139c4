"""Both denominators, per pair and per micro-batch, against one row at a time; and what dealing does to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from loss_bench import Bench, Token, assert_same, mean_nll
from torch import Tensor

from hotfix.data.loader import PairLoader, Share
from hotfix.data.packing import Layout
from hotfix.losses import BoundedPenalty
from hotfix.losses.bounded_penalty import Denominator, bounded_penalty
from hotfix.types import Side, TokenScope

both = pytest.mark.parametrize("denominator", ["added_and_deleted", "twice_deleted"])


def formula(fixed: Sequence[Token], buggy: Sequence[Token], denominator: Denominator) -> Tensor:
    added, deleted = mean_nll(fixed), mean_nll(buggy)
    divisor = added + deleted if denominator == "added_and_deleted" else deleted + deleted
    return 0.7 * added + 0.3 * added / (divisor + 1e-6)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("scope", ["edited", "all"])
@both
def test_per_pair_equals_one_row_at_a_time(
    bench: Bench, denominator: Denominator, scope: TokenScope, layout: Layout
) -> None:
    pairs = zip(bench.sequences("fixed", scope), bench.sequences("buggy", scope), strict=True)
    expected = torch.stack([formula(fixed, buggy, denominator) for fixed, buggy in pairs]).mean()
    assert_same(BoundedPenalty(denominator, scope), expected, bench, bench.batch(layout=layout))


@both
def test_per_micro_batch_is_the_published_ratio_of_means(bench: Bench, denominator: Denominator) -> None:
    expected = formula(bench.tokens("fixed", "edited"), bench.tokens("buggy", "edited"), denominator)
    assert_same(BoundedPenalty(denominator, per="micro_batch"), expected, bench)


def test_dealing_changes_the_ratio_of_means_and_not_that_of_pairs() -> None:
    bench = Bench(moved=0.5)

    def dealt(term: BoundedPenalty, accumulate: int) -> Tensor:
        loader = PairLoader(bench.pairs, [], len(bench.pairs), share=Share(accumulate=accumulate))
        return torch.stack([term(bench.passes(batch)) for batch in loader]).mean()

    of_pairs, of_parts = BoundedPenalty(), BoundedPenalty(per="micro_batch")
    torch.testing.assert_close(dealt(of_pairs, 3), dealt(of_pairs, 1), rtol=1e-5, atol=1e-6)
    assert abs(dealt(of_parts, 3) - dealt(of_parts, 1)) > 1e-3
    # What it is instead: the parts' own values, weighted by their pairs.
    loader = PairLoader(bench.pairs, [], len(bench.pairs), share=Share(accumulate=3))
    places = {pair.id: place for place, pair in enumerate(bench.pairs)}
    parts = [[places[key] for key in batch.keys] for batch in loader]
    assert [len(part) for part in parts] != [len(parts[0])] * 3
    expected = []
    for part in parts:
        fixed, buggy = ([t for t in bench.tokens(side, "edited") if t.example in part] for side in ("fixed", "buggy"))
        expected.append(formula(fixed, buggy, "added_and_deleted") * len(part))
    torch.testing.assert_close(dealt(of_parts, 3), torch.stack(expected).sum() / len(bench.pairs), rtol=1e-5, atol=1e-6)


def test_the_gradient_is_as_worked_by_hand() -> None:
    added, deleted = (torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (2.0, 3.0))
    published = bounded_penalty(added, deleted, "twice_deleted", 0.7, 0.3)
    slopes = [g.item() for g in torch.autograd.grad(published.sum(), [added, deleted])]
    assert slopes == pytest.approx([0.7 + 0.15 / 3, -0.15 * 2 / 9], abs=1e-6)
    meant = bounded_penalty(added, deleted, "added_and_deleted", 0.7, 0.3)
    slopes = [g.item() for g in torch.autograd.grad(meant.sum(), [added, deleted])]
    assert slopes == pytest.approx([0.7 + 0.3 * 3 / 25, -0.3 * 2 / 25], abs=1e-6)


def test_a_model_that_is_sure_of_the_bug_bounds_the_share_only() -> None:
    added, deleted = torch.tensor([2.0]), torch.tensor([0.0])
    assert bounded_penalty(added, deleted, "added_and_deleted", 0.7, 0.3).item() == pytest.approx(1.7, abs=1e-4)
    assert bounded_penalty(added, deleted, "twice_deleted", 0.7, 0.3).item() == pytest.approx(1.4 + 6e5, rel=1e-4)
    assert bounded_penalty(deleted, deleted, "added_and_deleted", 0.7, 0.3).item() == 0


class OneSided:
    """Three pairs; the second has no buggy token in scope, the third no fixed one."""

    values: ClassVar = {"fixed": torch.tensor([-1.0, -3.0, -50.0]), "buggy": torch.tensor([-4.0, -70.0])}
    examples: ClassVar = {"fixed": torch.tensor([0, 0, 1]), "buggy": torch.tensor([0, 2])}

    def log_probs(self, side: Side, scope: TokenScope = "all") -> Tensor:
        return self.values[side]

    def rows(self, side: Side, scope: TokenScope = "all") -> Tensor:
        return self.examples[side]

    def example_mean(self, values: Tensor) -> Tensor:
        return values.sum() / 3


def test_a_pair_without_a_token_on_one_side_adds_nothing() -> None:
    value = BoundedPenalty(scope="unedited")(OneSided())  # type: ignore[arg-type]
    assert value.item() == pytest.approx((0.7 * 2 + 0.3 * 2 / (2 + 4)) / 3, rel=1e-5)

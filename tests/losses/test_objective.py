"""The weighted sum, and that dealing a step out to micro-batches and processes changes neither loss nor gradient."""

from __future__ import annotations

import re

import pytest
import torch
from loss_bench import Bench, gradients
from torch import Tensor

from hotfix.data.loader import PairLoader, Share
from hotfix.data.packing import Layout
from hotfix.errors import ConfigError
from hotfix.losses import NLL, KLToReference, LossTerm, Objective, Unlikelihood


def test_sums_with_weights_and_reports_unweighted_terms(bench: Bench) -> None:
    terms: dict[str, LossTerm] = {
        "learn": NLL(weight=0.5),
        "unlearn": Unlikelihood(weight=2.0),
        "retain": KLToReference(weight=5.0),
        "gentle": NLL("retain", "all", weight=0.25),
    }
    objective = Objective(terms["learn"], terms["unlearn"], terms["retain"], extra={"gentle": terms["gentle"]})
    values = objective(bench.passes())
    assert list(values) == ["loss", "learn", "unlearn", "retain", "gentle"]
    alone = {name: term(bench.passes()) for name, term in terms.items()}
    for name, value in alone.items():
        torch.testing.assert_close(values[name], value)
    expected = 0.5 * alone["learn"] + 2 * alone["unlearn"] + 5 * alone["retain"] + 0.25 * alone["gentle"]
    torch.testing.assert_close(values["loss"], expected)


def test_an_empty_slot_is_left_out(bench: Bench) -> None:
    values = Objective(unlearn=Unlikelihood(weight=3.0))(bench.passes())
    assert list(values) == ["loss", "unlearn"]
    torch.testing.assert_close(values["loss"], 3 * values["unlearn"])


def test_a_weight_of_zero_adds_nothing(bench: Bench) -> None:
    both = Objective(NLL(), extra={"watched": NLL("buggy", weight=0.0)})(bench.passes())
    assert torch.equal(both["loss"], both["learn"])
    assert both["watched"] > 0


def test_a_further_term_of_null_is_left_out(bench: Bench) -> None:
    values = Objective(NLL(), extra={"gentle": None})(bench.passes())
    assert list(values) == ["loss", "learn"]


@pytest.mark.parametrize("name", ["learn", "unlearn", "retain", "loss"])
def test_refuses_a_name_that_is_taken(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"extra: {name} is taken; choose another name"):
        Objective(NLL(), extra={name: NLL()})


def test_refuses_no_terms() -> None:
    with pytest.raises(ConfigError, match="no term is given, expected at least one of learn, unlearn, retain"):
        Objective()


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_refuses_a_weight_below_zero(weight: float) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"weight of NLL is {weight}, expected 0 or more")):
        NLL(weight=weight)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize(("accumulate", "world"), [(2, 1), (4, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("retain_size", [0, 1, 3])
def test_dealing_out_a_step_changes_nothing(
    bench: Bench, accumulate: int, world: int, retain_size: int, layout: Layout
) -> None:
    # Parts hold different numbers of tokens, some none: a mean of the parts' own means would be another number.
    def step(rank: int, world: int, accumulate: int) -> list[tuple[Tensor, dict[str, Tensor]]]:
        share = Share(rank, world, accumulate)
        loader = PairLoader(bench.pairs, bench.retain, 7, retain_size, share, seed=3, layout=layout)
        objective = Objective(NLL(), Unlikelihood(), KLToReference(), {"every": Unlikelihood(first_only=False)})
        values = [objective(bench.passes(batch))["loss"] for batch in loader]
        assert len(values) == accumulate
        return [(value, gradients(value, bench.trained())) for value in values]

    [(whole, whole_gradient)] = step(0, 1, 1)
    parts = [part for rank in range(world) for part in step(rank, world, accumulate)]
    assert len(parts) == world * accumulate
    # What the trainer does: each process divides by its micro-batches, and processes take the mean.
    loss = torch.stack([value for value, _ in parts]).mean()
    gradient = {name: torch.stack([g[name] for _, g in parts]).mean(0) for name in whole_gradient}
    torch.testing.assert_close(loss, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, whole_gradient, rtol=1e-5, atol=1e-5)
    assert max(float(g.abs().max()) for g in whole_gradient.values()) > 1e-3

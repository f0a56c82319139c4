"""Each forward pass runs once, on first use, whatever the terms ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from loss_bench import Bench

from hotfix.data.packing import pack
from hotfix.losses import NLL, KLToReference, Objective, Unlikelihood
from hotfix.models.states import hidden_states
from hotfix.types import SCOPES, SIDES


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each forward pass had a gradient, in order."""
    seen: list[bool] = []
    original: Callable[..., Any] = hidden_states

    def counted(*arguments: Any) -> Any:
        seen.append(torch.is_grad_enabled())
        return original(*arguments)

    monkeypatch.setattr("hotfix.losses.passes.hidden_states", counted)
    return seen


def test_a_full_objective_runs_policy_and_base_once_each(bench: Bench, runs: list[bool]) -> None:
    Objective(NLL(), Unlikelihood(), KLToReference(), {"more": KLToReference({"buggy": 1.0})})(bench.passes())
    assert sorted(runs) == [False, False, True, True]


def test_what_is_not_asked_for_does_not_run(bench: Bench, runs: list[bool]) -> None:
    found = bench.passes()
    assert runs == []
    NLL()(found)
    Unlikelihood()(found)
    assert runs == [True]


def test_ahead_runs_all_there_may_be_and_the_terms_nothing_more(bench: Bench, runs: list[bool]) -> None:
    """In the same order whatever rows there are: other processes wait for each pass."""
    ordered = [True, False, True, False]
    for retain in (bench.retain, []):
        runs.clear()
        found = bench.passes(pack(bench.pairs, retain))
        through = found.ahead(("pairs", "retain"))
        assert runs == ordered
        assert through.item() == 0
        through.backward()
        assert all(weight.grad is not None and not weight.grad.any() for weight in bench.trained().values())
        Objective(NLL(), Unlikelihood(), KLToReference())(found)
        assert runs == ordered


def test_log_probs_agree_with_logits_and_rows_with_both(bench: Bench) -> None:
    found = bench.passes()
    for side in SIDES:
        for scope in SCOPES:
            tokens = bench.tokens(side, scope)
            assert found.rows(side, scope).tolist() == [t.example for t in tokens]
            log_probs, reference = found.log_probs(side, scope), found.reference_log_probs(side, scope)
            assert len(log_probs) == len(reference) == len(tokens)
            assert log_probs.dtype == reference.dtype == torch.float32
            assert not reference.requires_grad
            for i, t in enumerate(tokens):
                assert log_probs[i].item() == pytest.approx(t.logits.log_softmax(-1)[t.token].item(), abs=1e-4)
                assert reference[i].item() == pytest.approx(t.reference.log_softmax(-1)[t.token].item(), abs=1e-4)


def test_keep_computes_only_those_rows(bench: Bench) -> None:
    found, keep = bench.passes(), torch.tensor([5, 0, 2])
    for get in (found.logits, found.reference_logits):
        torch.testing.assert_close(get("fixed", "all", keep), get("fixed", "all")[keep])
        assert get("fixed", "all", keep).shape == (3, 257)


def test_the_reference_is_the_base_with_the_adapter_on_afterwards(bench: Bench) -> None:
    found = bench.passes()
    before = found.log_probs("fixed")
    reference = found.reference_log_probs("fixed")
    assert not torch.allclose(before, reference, atol=1e-3)
    assert torch.equal(bench.passes().log_probs("fixed"), before)
    assert all(weight.requires_grad for weight in bench.trained().values())

"""What the base was found to compute once gives the same losses and gradients as computing it anew in each step."""

from __future__ import annotations

import pytest
import torch
from loss_bench import Bench, gradients

from hotfix.adapters import IA3, Adapter, FullFineTuning, LoRA, PrefixTuning
from hotfix.adapters.first_pass import first_pass
from hotfix.data.loader import PairLoader
from hotfix.losses import NLL, KLToReference, ModelPasses, Objective, Unlikelihood
from hotfix.losses.base_states import BaseStates
from hotfix.models.tiny import tiny_model


def computed(model: torch.nn.Module, adapter: Adapter, bench: Bench) -> BaseStates:
    states = BaseStates.planned(model, bench.pairs, bench.retain)
    assert states is not None
    first_pass(model, adapter.reference, bench.pairs, bench.retain, [states])
    assert states.serves(adapter.reference, bench.pairs)
    return states


Moved = tuple[Adapter, torch.nn.Module, dict[str, torch.nn.Parameter]]


def moved_policy(adapter: Adapter | None = None) -> Moved:
    adapter = adapter or LoRA(rank=4)
    model = adapter.attach(tiny_model())
    model.eval()
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in weights.values():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.1)
    return adapter, model, weights


@pytest.mark.parametrize(
    ("adapter", "first"),
    [
        (LoRA(rank=4), 0),
        (LoRA(rank=4, layers=[1]), 1),
        (LoRA(rank=4, target_modules=["embed_tokens", "q_proj"]), None),
        (IA3(layers=[1]), 1),
        (PrefixTuning(3), 0),
        (FullFineTuning(layers=[1]), 1),
        (FullFineTuning(["mlp", "lm_head"]), 0),
        (FullFineTuning(), None),
    ],
    ids=["lora", "upper lora", "lora on the embeddings", "upper ia3", "prefix", "upper full", "mlp and head", "full"],
)
def test_kept_states_change_no_loss_and_no_gradient(bench: Bench, adapter: Adapter, first: int | None) -> None:
    adapter, model, weights = moved_policy(adapter)
    kept = computed(model, adapter, bench)
    assert kept.first == first
    objective = Objective(NLL(), Unlikelihood(), KLToReference({"fixed": 1.0, "buggy": 1.0, "retain": 1.0}))
    for batch in PairLoader(bench.pairs, bench.retain, batch_size=3, retain_size=2):
        anew = objective(ModelPasses(model, batch, adapter.reference))
        once = objective(ModelPasses(model, batch, adapter.reference, kept))
        assert anew["retain"] > 1e-6
        torch.testing.assert_close(once, anew, rtol=1e-5, atol=1e-6)
        found, expected = gradients(once["loss"], weights), gradients(anew["loss"], weights)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_are_the_bases_whatever_the_adapter_has_become(bench: Bench) -> None:
    adapter, model, _ = moved_policy()
    fresh = LoRA(rank=4)
    untrained = fresh.attach(tiny_model())
    moved, at_base = (computed(m, a, bench) for m, a in ((model, adapter), (untrained, fresh)))
    for place in range(len(bench.pairs)):
        assert torch.equal(moved.last("pairs", [place]), at_base.last("pairs", [place]))
        assert torch.equal(moved.entering("pairs", [place]), at_base.entering("pairs", [place]))


def test_too_many_rows_are_not_kept(bench: Bench) -> None:
    _, model, _ = moved_policy()
    assert BaseStates.planned(model, bench.pairs * 200, bench.retain, limit_mib=1) is None

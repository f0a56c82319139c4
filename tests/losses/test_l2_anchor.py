"""The distance of a patch's weights from the base's, against merging it into the base and subtracting."""

from __future__ import annotations

import copy

import pytest
import torch
from loss_bench import Bench, assert_same, gradients
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from hotfix.adapters import FullFineTuning
from hotfix.data.packing import pack
from hotfix.errors import ConfigError
from hotfix.losses import L2Anchor, ModelPasses
from hotfix.losses.drift import low_rank_drift, low_rank_norm
from hotfix.models.tiny import tiny_model


def moved(config: LoraConfig) -> PeftModel:
    torch.manual_seed(0)
    model = get_peft_model(tiny_model(), config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.1)
    return model


def distance(merged: nn.Module, base: nn.Module) -> float:
    before = dict(base.named_parameters())
    changes = [w.detach().double() - before[name].detach().double() for name, w in merged.named_parameters()]
    return float(torch.stack([change.square().sum() for change in changes]).sum())


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"),
        LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "down_proj"]),
        LoraConfig(r=2, target_modules=["v_proj"], layers_to_transform=[1]),
    ],
)
def test_equals_the_merged_model_minus_the_base(config: LoraConfig) -> None:
    model = moved(config)
    found = low_rank_drift(model).item()
    merged = copy.deepcopy(model).merge_and_unload()
    assert isinstance(merged, nn.Module)
    assert found == pytest.approx(distance(merged, tiny_model()), rel=1e-4)
    assert found > 0.1


def test_value_and_gradient_equal_the_full_matrices(bench: Bench) -> None:
    trained = bench.trained()
    changes = [
        2 * trained[name.replace("lora_A", "lora_B")] @ down for name, down in trained.items() if "lora_A" in name
    ]
    assert_same(L2Anchor(), 0.5 * torch.stack([change.square().sum() for change in changes]).sum(), bench)


def test_is_zero_at_the_base_and_the_batch_has_no_part_in_it(bench: Bench) -> None:
    assert L2Anchor()(Bench(moved=0.0).passes()).item() == 0
    assert torch.equal(L2Anchor()(bench.passes()), L2Anchor()(bench.passes(pack([], []))))


def test_an_adapter_that_changes_the_base_s_own_weights_says_how_far() -> None:
    bench = Bench()
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))

    def drift(model: nn.Module) -> Tensor:
        assert model is bench.policy
        return (weight - torch.tensor([0.0, 1.0])).square().sum()

    value = L2Anchor()(ModelPasses(bench.policy, bench.batch(), bench.adapter.reference, drift=drift))
    assert value.item() == 5
    assert gradients(value, {"weight": weight})["weight"].tolist() == [1, -3]


def test_full_fine_tuning_is_held_to_the_base_it_started_from() -> None:
    adapter = FullFineTuning(layers=[1])
    model = adapter.attach(tiny_model())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for weight in trained.values():
            weight.add_(0.01)
    batch = Bench(moved=0.0).batch()
    value = L2Anchor()(ModelPasses(model, batch, adapter.reference, drift=adapter.squared_drift))
    assert value.item() == pytest.approx(0.5 * distance(model, tiny_model()), rel=1e-5)
    assert value.item() > 0.1
    # Half a square's gradient is the distance itself: every weight is pulled straight back.
    for pull in gradients(value, trained).values():
        torch.testing.assert_close(pull, torch.full_like(pull, 0.01), rtol=1e-3, atol=1e-6)


def test_equals_the_norm_of_the_product() -> None:
    generator = torch.Generator().manual_seed(0)
    down, up = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((3, 11), (7, 3)))
    torch.testing.assert_close(low_rank_norm(down, up), (up @ down).square().sum())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: moved(LoraConfig(r=2, use_dora=True, target_modules=["q_proj"])), "plain LoRA on linear layers only"),
        (lambda: moved(LoraConfig(r=2, target_modules=["embed_tokens"])), "so L2Anchor has nothing to hold"),
        (
            lambda: get_peft_model(tiny_model(), IA3Config(target_modules=["k_proj"], feedforward_modules=[])),
            "use hotf",
        ),
        (tiny_model, "LlamaForCausalLM's adapter has no weights of its own"),
    ],
)
def test_refuses_a_change_that_it_does_not_know(model: object, message: str) -> None:
    made = model()  # type: ignore[operator]
    with pytest.raises(ConfigError, match=message):
        low_rank_drift(made)

"""Which weights full fine-tuning trains, how far they went, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from hotfix.adapters import FullFineTuning
from hotfix.errors import ConfigError
from hotfix.models.tiny import tiny_model

IDS = torch.arange(1, 41).reshape(2, 20)


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def every(part: str, model: PreTrainedModel) -> set[str]:
    return {name for name, _ in model.named_parameters() if part in name}


@pytest.mark.parametrize(
    ("targets", "layers", "parts"),
    [
        ("all", None, [""]),
        ("all", [1], ["layers.1."]),
        ("mlp", None, [".mlp."]),
        (["self_attn.q_proj", "mlp.down_proj"], [0], ["layers.0.self_attn.q_proj", "layers.0.mlp.down_proj"]),
        ("lm_head", None, ["lm_head"]),
        (["norm"], None, ["model.norm.weight"]),
    ],
)
def test_chosen_weights_train_and_no_others(
    targets: str | list[str], layers: list[int] | None, parts: list[str]
) -> None:
    model = FullFineTuning(targets, layers).attach(tiny_model())
    assert trained(model) == set().union(*(every(part, model) for part in parts))


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_tied_weights_train_as_one(target: str) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=True, **sizes)).eval()
    base = model(input_ids=IDS).logits.detach()
    adapter = FullFineTuning(target)
    adapter.attach(model)
    assert trained(model) == {"model.embed_tokens.weight"}
    assert model.lm_head.weight is model.get_input_embeddings().weight
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    assert not torch.equal(model(input_ids=IDS).logits, base)
    with adapter.reference(model):
        assert torch.equal(model(input_ids=IDS).logits, base)


def test_the_drift_is_the_squared_distance_with_its_gradient() -> None:
    adapter, base = FullFineTuning(), tiny_model()
    model = adapter.attach(tiny_model())
    assert adapter.squared_drift(model) == 0
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    flat, start = (torch.cat([p.detach().double().flatten() for p in m.parameters()]) for m in (model, base))
    drift = adapter.squared_drift(model)
    assert drift.item() == pytest.approx(((flat - start) ** 2).sum().item(), rel=1e-5)
    drift.backward()
    gradient = torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(gradient, 2 * (flat - start), rtol=1e-5, atol=1e-6)


def test_the_base_values_are_no_second_model() -> None:
    model = tiny_model()
    own = {name: p.data_ptr() for name, p in model.named_parameters()}
    adapter = FullFineTuning("mlp")
    adapter.attach(model)
    with adapter.reference(model):
        assert {name: p.data_ptr() for name, p in model.named_parameters()} == own


@pytest.mark.parametrize(
    ("targets", "layers", "message"),
    [
        (
            "mpl",
            None,
            r"no weight of LlamaForCausalLM has 'mpl' in its name; say all, or some of down_proj, embed_tokens",
        ),
        (["mlp", "lm_head"], [0], r"no weight of LlamaForCausalLM in the layers \[0\] has 'lm_head' in its name"),
        ("all", [7], r"adapter\.init_args\.layers is \[7\], but LlamaForCausalLM has 2 layers"),
    ],
)
def test_a_choice_that_is_not_in_the_model(targets: str | list[str], layers: list[int] | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FullFineTuning(targets, layers).attach(tiny_model())


def test_a_half_precision_base_is_refused() -> None:
    model = tiny_model()
    model.bfloat16()
    expected = r"can't train model\.embed_tokens\.weight, which is bfloat16; load the model in float32, or use"
    with pytest.raises(ConfigError, match=expected):
        FullFineTuning().attach(model)

"""What IA3 scales, against the equation, and how it finds its layers."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BloomConfig, BloomForCausalLM, CodeGenConfig, CodeGenForCausalLM, MptConfig, MptForCausalLM

from hotfix.adapters import IA3
from hotfix.errors import ConfigError
from hotfix.models.tiny import tiny_model

IDS = torch.arange(1, 41).reshape(2, 20)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS).logits
    return found


def scaled(model: Any) -> set[str]:
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all(".ia3_l." in name for name in names)
    return {name.split(".ia3_l")[0].removeprefix("base_model.model.") for name in names}


def test_scales_keys_values_and_what_enters_the_last_layer_of_the_feed_forward() -> None:
    model, base = IA3().attach(tiny_model()), tiny_model()
    assert scaled(model) == {
        f"model.layers.{i}.{part}" for i in (0, 1) for part in ("self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj")
    }
    own = dict(base.named_parameters())
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                p.copy_(1 + 0.3 * torch.randn_like(p))
                weight = own[name.split(".ia3_l")[0].removeprefix("base_model.model.") + ".weight"]
                # Outputs are rows of the weight, inputs its columns.
                weight.mul_(p.reshape(1, -1) if "down_proj" in name else p.reshape(-1, 1))
    torch.testing.assert_close(logits(model), logits(base), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({"layers": [1]}, {f"model.layers.1.{p}" for p in ("self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj")}),
        ({"modules": ["q_proj"]}, {f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)}),
        (
            {"modules": ["q_proj", "up_proj"], "feedforward_modules": ["up_proj"], "layers": [0]},
            {"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"},
        ),
    ],
)
def test_chosen_layers(settings: dict[str, Any], layers: set[str]) -> None:
    model = IA3(**settings).attach(tiny_model())
    assert scaled(model) == layers
    if "feedforward_modules" in settings:
        sizes = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
        assert {tuple(s) for name, s in sizes.items() if "up_proj" in name} == {(1, 32)}


def test_codegen_has_the_layers_of_the_paper() -> None:
    config = CodeGenConfig(vocab_size=64, n_embd=16, n_layer=1, n_head=4, n_positions=64, rotary_dim=4)
    model = IA3().attach(CodeGenForCausalLM(config))
    assert {name.rsplit(".", 1)[-1] for name in scaled(model)} == {"qkv_proj", "fc_in", "fc_out"}


def test_names_by_their_end_reach_into_other_architectures() -> None:
    model = IA3().attach(BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=16, n_layer=2, n_head=2)))
    assert {name.rsplit(".", 1)[-1] for name in scaled(model)} == {"query_key_value", "dense_4h_to_h"}


def test_an_architecture_without_known_layers_says_what_it_has() -> None:
    model = MptForCausalLM(MptConfig(vocab_size=64, d_model=16, n_heads=2, n_layers=1, max_seq_len=64))
    with pytest.raises(ConfigError, match=r"which layers of MptForCausalLM to scale; .* It has Wqkv, down_proj"):
        IA3().attach(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"feedforward_modules": ["fc"]},
            "adapter.init_args.feedforward_modules names fc, which modules doesn't",
        ),
        ({"modules": ["v_porj"]}, "adapter.init_args.modules: 'v_porj' is not in LlamaForCausalLM; did"),
        ({"layers": [2]}, "adapter.init_args.layers is [2], but LlamaForCausalLM has 2 layers"),
    ],
)
def test_a_setting_that_does_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        IA3(**settings).attach(tiny_model())

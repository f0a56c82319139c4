"""The matrices that write to the residual stream are found in every architecture, by structure alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from hotfix.errors import ModelError
from hotfix.models.layout import attention_output, feed_forward_output
from hotfix.models.trace import captured, changed_output

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
WIDE = {**SMALL, "intermediate_size": 48}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 64}
# Architecture -> (configuration, feed-forward output, attention output) of block 1.
ZOO = {
    "llama": (WIDE, "model.layers.1.mlp.down_proj", "model.layers.1.self_attn.o_proj"),
    "mistral": ({**WIDE, "num_key_value_heads": 2}, "model.layers.1.mlp.down_proj", "model.layers.1.self_attn.o_proj"),
    # Its heads together are wider than the residual stream.
    "qwen3": (
        {**WIDE, "head_dim": 16, "num_key_value_heads": 2},
        "model.layers.1.mlp.down_proj",
        "model.layers.1.self_attn.o_proj",
    ),
    "qwen2": ({**WIDE, "num_key_value_heads": 2}, "model.layers.1.mlp.down_proj", "model.layers.1.self_attn.o_proj"),
    "starcoder2": ({**WIDE, "num_key_value_heads": 2}, "model.layers.1.mlp.c_proj", "model.layers.1.self_attn.o_proj"),
    "gpt2": (GPT, "transformer.h.1.mlp.c_proj", "transformer.h.1.attn.c_proj"),
    "gpt_bigcode": (GPT, "transformer.h.1.mlp.c_proj", "transformer.h.1.attn.c_proj"),
    "codegen": ({**GPT, "rotary_dim": 4}, "transformer.h.1.mlp.fc_out", "transformer.h.1.attn.out_proj"),
    "gpt_neox": (WIDE, "gpt_neox.layers.1.mlp.dense_4h_to_h", "gpt_neox.layers.1.attention.dense"),
    "phi": (WIDE, "model.layers.1.mlp.fc2", "model.layers.1.self_attn.dense"),
    "phi3": ({**WIDE, "pad_token_id": 0}, "model.layers.1.mlp.down_proj", "model.layers.1.self_attn.o_proj"),
    "gemma2": ({**WIDE, "head_dim": 16}, "model.layers.1.mlp.down_proj", "model.layers.1.self_attn.o_proj"),
}


def build(kind: str, **settings: object) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**settings))
    return model.eval()


@pytest.mark.parametrize("kind", ZOO)
def test_found_and_what_it_writes_reaches_the_stream(kind: str) -> None:
    settings, feed_forward, attention = ZOO[kind]
    model = build(kind, **settings)
    ids = torch.arange(6)[None]
    before = model(input_ids=ids).logits
    for place, expected in (
        (feed_forward_output(model, 1), feed_forward),
        (attention_output(model, 1), attention),
    ):
        assert place.name == f"{expected}.weight"
        assert place.weight.shape[0] == 32
        # Reading and writing: its own product of what enters is what comes out.
        with captured({"place": place.module}, "input") as entering, captured({"place": place.module}, "output") as out:
            model(input_ids=ids)
        bias = getattr(place.module, "bias", None)
        product = entering["place"] @ place.weight.T + (0 if bias is None else bias)
        torch.testing.assert_close(out["place"], product, rtol=1e-4, atol=1e-6)
        with changed_output(place.module, lambda out: 3 * out):
            assert not torch.allclose(model(input_ids=ids).logits, before, atol=1e-4)
    assert torch.equal(model(input_ids=ids).logits, before)


def test_a_mixture_of_experts_is_refused() -> None:
    model = build("mixtral", **{**WIDE, "num_local_experts": 2, "num_key_value_heads": 4})
    with pytest.raises(ModelError, match="linear maps to the residual stream, expected one"):
        feed_forward_output(model, 0)


def test_a_block_that_is_not_there() -> None:
    with pytest.raises(ModelError, match=r"there is no block 2; LlamaForCausalLM has 2, from 0"):
        feed_forward_output(build("llama", **WIDE), 2)


def test_a_quantised_matrix_is_refused() -> None:
    model = build("llama", **WIDE)
    down = model.model.layers[0].mlp.down_proj
    down.weight = nn.Parameter(down.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match="quantised"):
        feed_forward_output(model, 0)

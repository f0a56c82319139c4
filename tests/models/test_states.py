"""The two halves give the model's own logits, packed or not, for every architecture that people write code with."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedModel

from hotfix.data.encode import Branch, EncodedPair
from hotfix.data.packing import pack, pack_texts
from hotfix.errors import ModelError
from hotfix.models import states
from hotfix.models.rows import TokenRows
from hotfix.models.states import check_halves, fixed_head, head_logits, hidden_states, plain_model
from hotfix.models.tiny import tiny_model

VOCAB = 64
_IDS = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
_SMALL = {**_IDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
LLAMA = {**_SMALL, "intermediate_size": 48, "num_key_value_heads": 2}
GPT = {**_IDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
NEO = {**_IDS, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}
MODELS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "Llama": ("Llama", LLAMA),
    "Llama eager": ("Llama", {**LLAMA, "attn_implementation": "eager"}),
    "GPT2": ("GPT2", GPT),
    "Qwen2": ("Qwen2", LLAMA),
    "Qwen3": ("Qwen3", {**LLAMA, "head_dim": 8}),
    "Mistral": ("Mistral", LLAMA),
    "Mistral with a window": ("Mistral", {**LLAMA, "sliding_window": 4}),
    "Starcoder2": ("Starcoder2", LLAMA),
    "GPTBigCode": ("GPTBigCode", GPT),
    "GPTBigCode eager": ("GPTBigCode", {**GPT, "attn_implementation": "eager"}),
    "CodeGen": ("CodeGen", {**GPT, "rotary_dim": 4, "n_ctx": 64}),
    "GPTJ": ("GPTJ", {**GPT, "rotary_dim": 4}),
    "GPTNeo": ("GPTNeo", {**NEO, "window_size": 64, "max_position_embeddings": 64}),
    "GPTNeo with a window": ("GPTNeo", {**NEO, "window_size": 4, "max_position_embeddings": 64}),
    "GPTNeoX": ("GPTNeoX", {**_SMALL, "intermediate_size": 48}),
    "Phi": ("Phi", LLAMA),
    "Phi3": ("Phi3", LLAMA),
    "Gemma2": ("Gemma2", {**LLAMA, "head_dim": 8, "final_logit_softcapping": 3.0, "sliding_window": 64}),
    "Gemma2 with a window": ("Gemma2", {**LLAMA, "head_dim": 8, "final_logit_softcapping": 3.0, "sliding_window": 4}),
    "Granite": ("Granite", {**LLAMA, "logits_scaling": 7.0, "embedding_multiplier": 3.0}),
    "Cohere": ("Cohere", {**LLAMA, "logit_scale": 0.3}),
    "OPT": ("OPT", {**_SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "Falcon": ("Falcon", {**_SMALL, "alibi": False}),
    "Falcon with ALiBi": ("Falcon", {**_SMALL, "alibi": True}),
    "Bloom": ("Bloom", {**_IDS, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "Mpt": ("Mpt", {**_IDS, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}),
    "Mamba": ("Mamba", {**_IDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
}


def make(name: str) -> PreTrainedModel:
    family, settings = MODELS[name]
    # A wide start: with the usual 0.02, all logits are near zero and any two agree.
    spread = {} if family in ("Mpt", "Mamba") else {"initializer_range": 0.3}
    config = getattr(hf, f"{family}Config")(**settings, **spread)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = hf.AutoModelForCausalLM.from_config(config)
    model.eval()
    return model


def make_pairs() -> list[EncodedPair]:
    rng = random.Random(0)

    def ids(least: int, most: int) -> list[int]:
        return [rng.randrange(1, VOCAB) for _ in range(rng.randint(least, most))]

    def branch() -> Branch:
        found = ids(1, 6)
        return Branch(found, [True] * len(found), 1)

    return [EncodedPair(f"p{i}", ids(3, 9), 1, "", branch(), branch()) for i in range(4)]


def own_logits(model: nn.Module, ids: list[int]) -> Tensor:
    logits: Tensor = model(torch.tensor([ids]), use_cache=False).logits[0].float()
    return logits


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_packed_rows_give_each_sides_own_logits(name: str) -> None:
    model, pairs = make(name), make_pairs()
    batch = pack(pairs, pad_id=1)
    assert batch.pairs is not None
    found = hidden_states(model, batch.pairs)
    for side in ("fixed", "buggy"):
        targets = batch.targets[side]
        got = head_logits(model, found[targets.row, targets.column])
        own = torch.cat([own_logits(model, pair.shared + getattr(pair, side).ids)[:-1] for pair in pairs])
        assert own.std() > 0.01, "too flat to tell anything"
        torch.testing.assert_close(got, own, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_padded_texts_give_their_own_logits(name: str) -> None:
    model = make(name)
    texts = [pair.shared for pair in make_pairs()]
    rows, targets = pack_texts(texts, pad_id=1)
    assert rows is not None
    got = head_logits(model, hidden_states(model, rows)[targets.row, targets.column])
    torch.testing.assert_close(got, torch.cat([own_logits(model, ids)[:-1] for ids in texts]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_every_one_of_them_passes_its_check(name: str) -> None:
    check_halves(make(name))


def test_gradients_are_those_of_separate_rows() -> None:
    found = []
    for layout in ("packed", "padded"):
        model, batch = make("Mistral with a window"), pack(make_pairs(), layout=layout)
        assert batch.pairs is not None
        targets = batch.targets["buggy"]
        head_logits(model, hidden_states(model, batch.pairs)[targets.row, targets.column]).square().mean().backward()
        weight = model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        assert weight.grad is not None
        found.append(weight.grad)
    assert found[0].abs().max() > 0
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-4)


def test_an_altered_head_is_caught(tiny: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = type(tiny).forward

    def doubled(self: LlamaForCausalLM, *args: Any, **options: Any) -> Any:
        output = forward(self, *args, **options)
        output.logits = output.logits * 2
        return output

    monkeypatch.setattr(type(tiny), "forward", doubled)
    with pytest.raises(ModelError, match=r"^LlamaForCausalLM computes its logits in a way that hotfix doesn't know \("):
        check_halves(tiny)


def test_ids_that_are_read_unlike_their_embeddings_are_caught(
    tiny: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = type(tiny.model).forward

    def scaled(self: Any, input_ids: Any = None, inputs_embeds: Any = None, **options: Any) -> Any:
        if inputs_embeds is None:
            inputs_embeds = 30 * self.embed_tokens(input_ids).roll(1, -1)
        return forward(self, inputs_embeds=inputs_embeds, **options)

    monkeypatch.setattr(type(tiny.model), "forward", scaled)
    tiny.lm_head.weight.data.mul_(30)
    with pytest.raises(ModelError, match="LlamaForCausalLM computes its logits in a way"):
        check_halves(tiny.bfloat16())


def test_a_mask_that_is_not_heeded_is_caught(tiny: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaky(self: TokenRows) -> Tensor:
        size, length = self.branch.shape
        return torch.ones(length, length, dtype=torch.bool).tril().expand(size, 1, length, length)

    monkeypatch.setattr(TokenRows, "attention_mask", leaky)
    with pytest.raises(ModelError, match="LlamaForCausalLM computes its logits in a way"):
        check_halves(tiny)


def test_logits_that_are_not_numbers_are_caught(tiny: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "head_logits", lambda _, found: torch.full((len(found), 257), torch.nan))
    with pytest.raises(ModelError, match="differ by nan"):
        check_halves(tiny)


@pytest.mark.parametrize("name", [name for name in MODELS if "alibi" not in name.lower()])
def test_a_model_in_half_precision_passes(name: str) -> None:
    check_halves(make(name).bfloat16())


def test_sums_between_the_blocks_of_a_half_precision_model_are_not_rounded() -> None:
    model = tiny_model()
    rows = TokenRows(torch.arange(24).reshape(2, 12), torch.arange(12).repeat(2, 1), torch.zeros(2, 12).long())
    with torch.no_grad():
        rounded = model.bfloat16().get_decoder()(input_ids=rows.input_ids).last_hidden_state
        found = hidden_states(model, rows)
        exact = model.float().get_decoder()(input_ids=rows.input_ids).last_hidden_state
    assert found.dtype == torch.float32
    assert (found - exact).square().mean() < 0.5 * (rounded - exact).square().mean()


@pytest.mark.parametrize("name", ["Gemma2", "Granite", "Cohere"])
def test_a_bent_head_is_no_matrix(name: str) -> None:
    assert fixed_head(make(name).requires_grad_(False)) is None


def test_a_head_that_trains_is_not_fixed() -> None:
    model = tiny_model()
    assert fixed_head(model) is None
    model.requires_grad_(False)
    assert fixed_head(model) is model.lm_head
    assert fixed_head(get_peft_model(model, LoraConfig(target_modules=["lm_head"]))) is None


def test_adapters_stay_on_under_the_wrapper(tiny: LlamaForCausalLM) -> None:
    rows, targets = pack_texts([[1, 2, 3, 4]], 0)
    assert rows is not None
    before = hidden_states(tiny, rows)
    wrapped = get_peft_model(tiny, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    assert plain_model(wrapped) is tiny
    assert not torch.equal(hidden_states(wrapped, rows), before)
    with wrapped.disable_adapter():
        assert torch.equal(hidden_states(wrapped, rows), before)
    del targets


def test_something_else_is_no_model() -> None:
    with pytest.raises(ModelError, match=r"^Linear is not a transformers model$"):
        plain_model(nn.Linear(1, 1))


def test_short_rows_have_the_gradient_of_the_blocked_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    rows = TokenRows(torch.arange(24).reshape(2, 12), torch.arange(12).repeat(2, 1), torch.zeros(2, 12).long())
    found = []
    for limit in (128, 0):
        monkeypatch.setattr("hotfix.models.attention._SHORT", limit)
        model.zero_grad()
        hidden_states(model, rows).square().sum().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert found[0]
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-4, rtol=1e-4)

"""Adapters give what PEFT's own forward pass gives without any cache, prompts of different lengths together."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch

from hotfix.generation import SamplingConfig, greedy, sample

ADAPTERS = {
    "lora": peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, target_modules=["q_proj", "v_proj"]),
    "ia3": peft.IA3Config(
        task_type="CAUSAL_LM", init_ia3_weights=False, target_modules=["k_proj", "v_proj"], feedforward_modules=[]
    ),
    "prefix": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "prompt": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "p_tuning": peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=8),
}


def uncached_greedy(model: Any, prompt: list[int], length: int) -> list[int]:
    ids = list(prompt)
    for _ in range(length):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.fixture(params=ADAPTERS)
def adapted(request: pytest.FixtureRequest, make_llama: Any) -> Any:
    model = peft.get_peft_model(make_llama(), ADAPTERS[request.param]).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter))
    return model


def test_greedy_equals_the_uncached_model(
    adapted: Any, tokenizer: Any, prompts: list[list[int]], make_llama: Any
) -> None:
    made = [c.token_ids for c in greedy(adapted, tokenizer, prompts, 6)]
    assert made == [uncached_greedy(adapted, prompt, 6) for prompt in prompts]
    assert made != [uncached_greedy(make_llama(), prompt, 6) for prompt in prompts]


def test_a_disabled_adapter_is_not_read(
    adapted: Any, tokenizer: Any, prompts: list[list[int]], make_llama: Any
) -> None:
    with adapted.disable_adapter():
        made = greedy(adapted, tokenizer, prompts, 6)
    assert [c.token_ids for c in made] == [uncached_greedy(make_llama(), prompt, 6) for prompt in prompts]


def test_samples_do_not_depend_on_the_batch(adapted: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    made = [
        sample(adapted, tokenizer, prompts, SamplingConfig(num_samples=3, max_new_tokens=5, batch_size=b), seed=8)
        for b in (2, 64)
    ]
    assert [[c.token_ids for c in group] for group in made[0]] == [[c.token_ids for c in group] for group in made[1]]

"""One model has one digest, whatever it is loaded as and whatever is put on it; another weight is another model."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftConfig, PromptTuningConfig, TaskType, get_peft_model
from torch import nn
from transformers import LlamaForCausalLM

from hotfix.models.fingerprint import fingerprint
from hotfix.models.tiny import tiny_model

ADAPTERS: dict[str, PeftConfig] = {
    "lora": LoraConfig(target_modules="all-linear", init_lora_weights=False),
    "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "prompt": PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2),
}


def half(model: LlamaForCausalLM) -> nn.Module:
    return cast("nn.Module", model).to(torch.bfloat16)


def test_it_is_64_hexadecimal_digits_and_repeats(tiny: LlamaForCausalLM) -> None:
    assert fingerprint(tiny) == fingerprint(tiny_model())
    assert len(bytes.fromhex(fingerprint(tiny))) == 32


def test_loading_in_half_precision_changes_nothing(tiny: LlamaForCausalLM) -> None:
    expected = fingerprint(tiny)
    assert fingerprint(half(tiny)) == expected
    assert fingerprint(half(tiny).float()) == expected


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_changes_nothing(tiny: LlamaForCausalLM, kind: str) -> None:
    expected = fingerprint(tiny)
    assert fingerprint(get_peft_model(tiny, ADAPTERS[kind])) == expected


def test_every_single_weight_counts(tiny: LlamaForCausalLM) -> None:
    expected, names = fingerprint(tiny), list(dict(tiny.named_parameters()))
    assert len(names) > 20
    for name in names:
        parameter = dict(tiny.named_parameters())[name]
        with torch.no_grad():
            kept = parameter.view(-1)[-1].clone()
            parameter.view(-1)[-1] += 1
            assert fingerprint(tiny) != expected, name
            parameter.view(-1)[-1] = kept
    assert fingerprint(tiny) == expected


def test_the_same_numbers_in_another_shape_or_place_are_another_model() -> None:
    one, other = nn.Module(), nn.Module()
    one.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))
    other.weight = nn.Parameter(torch.arange(6.0).reshape(3, 2))
    moved = nn.Module()
    moved.bias = nn.Parameter(torch.arange(6.0).reshape(2, 3))
    assert len({fingerprint(one), fingerprint(other), fingerprint(moved)}) == 3


def test_a_wrapped_model_with_another_weight_is_another_model(tiny: LlamaForCausalLM) -> None:
    expected = fingerprint(tiny)
    wrapped = get_peft_model(tiny, ADAPTERS["lora"])
    with torch.no_grad():
        next(p for n, p in wrapped.named_parameters() if "base_layer" in n).view(-1)[0] += 1
    assert fingerprint(wrapped) != expected

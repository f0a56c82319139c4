"""One new token attends as with copied key heads, padded or not, and the model's own setting is back afterwards."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from hotfix.generation import attention
from hotfix.generation.attention import shared_heads
from hotfix.generation.branching import extend, prefill

SIZES = {"vocab_size": 64, "hidden_size": 48, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 6}
PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [8, 9], [10, 11, 12, 13]]


def models() -> dict[str, PreTrainedModel]:
    torch.manual_seed(0)
    window = MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=4)  # type: ignore[arg-type]
    return {
        "shared": LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)),  # type: ignore[arg-type]
        "one key head": LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=1)),  # type: ignore[arg-type]
        "own key heads": LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=6)),  # type: ignore[arg-type]
        "window": MistralForCausalLM(window),
    }


@torch.inference_mode()
def written(model: PreTrainedModel, prompts: list[list[int]]) -> list[torch.Tensor]:
    branches, found = prefill(model, prompts), []
    for step in range(4):
        found.append(branches.logits)
        branches = extend(model, branches, torch.tensor([20 + step + row for row in range(len(prompts))]))
    return [*found, branches.logits]


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]], ids=["padded", "alone"])
@pytest.mark.parametrize("name", models())
def test_logits_are_those_of_copied_key_heads(name: str, prompts: list[list[int]]) -> None:
    model = models()[name].eval()
    expected = written(model, prompts)
    with shared_heads(model):
        found = written(model, prompts)
    assert max(float(logits.std()) for logits in expected) > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_it_is_used_and_only_within(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = models()["shared"].eval(), []
    plain = attention.F.scaled_dot_product_attention

    def counted(query: torch.Tensor, *rest: torch.Tensor, **options: object) -> torch.Tensor:
        calls.append(tuple(query.shape))
        return plain(query, *rest, **options)

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", counted)
    with shared_heads(model):
        written(model, PROMPTS)
    # Two key heads, each with the three query heads that share it; two layers, four steps.
    assert calls.count((3, 2, 3, 8)) == 2 * 4
    assert model.config._attn_implementation == "sdpa"


def test_another_kind_of_attention_is_left_alone() -> None:
    model = models()["shared"]
    model.set_attn_implementation("eager")
    with shared_heads(model):
        assert model.config._attn_implementation == "eager"

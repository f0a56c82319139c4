"""Plain products give what torch's own attention gives, forward and backward, and its setting is back after."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from hotfix.generation.branching import extend, prefill
from hotfix.models import attention
from hotfix.models.attention import plain_products
from hotfix.models.states import own_precision

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


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the queries that were attended for by plain products."""
    calls: list[tuple[int, ...]] = []
    apply = attention._Products.apply

    def counting(query: Tensor, *rest: object) -> object:
        calls.append(tuple(query.shape))
        return apply(query, *rest)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(attention._Products, "apply", counting)
    return calls


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]], ids=["padded", "alone"])
@pytest.mark.parametrize("name", models())
def test_logits_are_those_of_torch(name: str, prompts: list[list[int]], counted: list[tuple[int, ...]]) -> None:
    model = models()[name].eval()
    expected = written(model, prompts)
    assert not counted
    with plain_products(model):
        found = written(model, prompts)
    assert len(counted) == 2 * 5
    assert max(float(logits.std()) for logits in expected) > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", models())
def test_gradients_are_those_of_torch(name: str, masked: bool, counted: list[tuple[int, ...]]) -> None:
    model = models()[name]
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7], [0, 0, 8, 9, 10, 11, 12]])
    mask = torch.tensor([[1] * 7, [0] * 2 + [1] * 5]) if masked else None
    gradients, weights = [], torch.randn(2, 5, 48)
    for one in (model, copy.deepcopy(model)):
        with plain_products(one) if gradients else nullcontext():
            states = one.get_decoder()(ids, attention_mask=mask).last_hidden_state
        (weights * states[:, 2:]).sum().backward()
        gradients.append([parameter.grad for parameter in one.get_decoder().parameters()])
    assert counted == [(2, 6, 7, 8)] * 2
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-4)
    assert all(float(gradient.abs().max()) > 0.01 for gradient in gradients[0] if gradient is not None)


@pytest.mark.parametrize("short", [1, 128], ids=["weights made again", "weights kept"])
@pytest.mark.parametrize("kind", ["none", "seen", "added"])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_gradients_by_finite_differences(monkeypatch: pytest.MonkeyPatch, heads: int, kind: str, short: int) -> None:
    monkeypatch.setattr(attention, "_SHORT", short)
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(2, h, length, 3, dtype=torch.float64, requires_grad=True)
        for h, length in ((4, 2), (heads, 5), (heads, 5))
    )
    seen = torch.tensor([[[[1, 0, 1, 1, 0], [1, 1, 0, 1, 1]]]]).bool()
    mask = {"none": None, "seen": seen, "added": torch.randn(2, 1, 2, 5, dtype=torch.float64)}[kind]

    def attend(*parts: Tensor) -> Tensor:
        found: Tensor = attention._Products.apply(*parts, mask, 0.7)  # type: ignore[no-untyped-call]
        return found

    repeated = (part.repeat_interleave(4 // heads, 1) for part in (key, value))
    expected = F.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.7)
    torch.testing.assert_close(attend(query, key, value), expected)
    assert torch.autograd.gradcheck(attend, (query, key, value))


def test_bfloat16_is_as_near_as_torch_is(counted: list[tuple[int, ...]]) -> None:
    exact = models()["shared"].eval()
    with torch.no_grad():
        for parameter in exact.parameters():
            parameter.copy_(parameter.bfloat16())
    half, ids = copy.deepcopy(exact).bfloat16(), torch.arange(60)[None]
    found = []
    for model in (exact, half):
        with torch.no_grad():
            found.append(model(ids).logits.float())
    with torch.no_grad(), plain_products(half):
        found.append(half(ids).logits.float())
    assert counted == [(1, 6, 60, 8)] * 2
    by_torch, by_products = ((other - found[0]).square().mean().sqrt() for other in found[1:])
    assert by_products < 1.3 * by_torch


def test_gradients_reach_float32_states_of_a_half_precision_model(counted: list[tuple[int, ...]]) -> None:
    model = models()["shared"].bfloat16()
    entering = torch.randn(1, 6, 48, requires_grad=True)
    gradients = []
    for context in (nullcontext(), plain_products(model)):
        with own_precision(model), context:
            states = model.get_decoder()(inputs_embeds=entering).last_hidden_state
        (gradient,) = torch.autograd.grad(states.float()[0, -1, 0], entering)
        gradients.append(gradient)
    assert len(counted) == 2
    torch.testing.assert_close(gradients[1], gradients[0], atol=0.02 * float(gradients[0].abs().max()), rtol=0)


def test_a_row_that_sees_nothing_is_finite() -> None:
    made = torch.ones(1, 2, 3, 4)
    found: Tensor = attention._Products.apply(made, made, made, torch.zeros(1, 1, 3, 3).bool(), 1.0)  # type: ignore[no-untyped-call]
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("why", ["dropout", "each head its mask", "long in float32", "more than fits"])
def test_what_is_left_to_torch(why: str, counted: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    length = 200 if why == "long in float32" else 5
    parts = [torch.randn(1, 2, length, 4, requires_grad=True) for _ in range(3)]
    mask = torch.ones(1, 2 if why == "each head its mask" else 1, length, length).bool()
    if why == "more than fits":
        monkeypatch.setattr(attention, "_ROOM", 10)
    dropout = 0.5 if why == "dropout" else 0.0
    module = torch.nn.Module()
    found, _ = attention._attend(module, *parts, mask, dropout=dropout)
    assert found.shape == (1, length, 2, 4)
    assert not counted
    attention._attend(module.eval(), *(part[:, :, :5] for part in parts), mask[:, :1, :5, :5], dropout=dropout)
    assert len(counted) == (why != "more than fits")


def test_it_is_used_within_only_and_few_tokens_read_each_key_once(counted: list[tuple[int, ...]]) -> None:
    model = models()["shared"].eval()
    with plain_products(model):
        written(model, PROMPTS)
    # The prompts of seven tokens, then a token at a time.
    assert counted == [(3, 6, 7, 8)] * 2 + [(3, 6, 1, 8)] * 2 * 4
    assert model.config._attn_implementation == "sdpa"


def test_a_model_with_ways_of_its_own_is_left_alone() -> None:
    model = FalconForCausalLM(FalconConfig(vocab_size=64, hidden_size=48, num_hidden_layers=1, num_attention_heads=6))
    assert model.config._attn_implementation == "sdpa"
    with plain_products(model):
        assert model.config._attn_implementation == "sdpa"


def test_another_kind_of_attention_is_left_alone() -> None:
    model = models()["shared"]
    model.set_attn_implementation("eager")
    with plain_products(model):
        assert model.config._attn_implementation == "eager"

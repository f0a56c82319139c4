"""Weights put aside for others come back themselves, tied ones everywhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from hotfix.models.tiny import tiny_model
from hotfix.models.weights import replace_weights, swapped_weights

IDS = torch.arange(1, 13)[None]


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS).logits
    return found


def tied() -> LlamaForCausalLM:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, tie_word_embeddings=True, **sizes)).eval()


def test_the_very_same_parameters_come_back() -> None:
    model = tiny_model()
    own, before = dict(model.named_parameters()), logits(model)
    other = {name: torch.randn_like(p) for name, p in own.items() if "mlp" in name}
    with swapped_weights(model, other):
        during = dict(model.named_parameters())
        assert all(torch.equal(during[name], value) and not during[name].requires_grad for name, value in other.items())
        assert all(during[name] is own[name] for name in own if name not in other)
        assert not torch.equal(logits(model), before)
    after = dict(model.named_parameters())
    assert all(after[name] is own[name] for name in own)
    assert torch.equal(logits(model), before)


def test_comes_back_after_an_error() -> None:
    model = tiny_model()
    own = dict(model.named_parameters())
    with pytest.raises(RuntimeError, match="inside"), swapped_weights(model, {"lm_head.weight": torch.zeros(257, 32)}):
        raise RuntimeError("inside")
    assert model.lm_head.weight is own["lm_head.weight"]


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
def test_a_tied_weight_is_replaced_everywhere(name: str) -> None:
    model = tied()
    new = torch.randn(32, 16)
    before = replace_weights(model, {name: new})
    assert torch.equal(model.lm_head.weight, new)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    replace_weights(model, before)
    assert model.lm_head.weight is before[name]
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_a_graph_built_before_has_its_gradient_for_the_weights_it_was_built_with() -> None:
    model = tiny_model()
    weight = model.lm_head.weight
    loss = model(input_ids=IDS, labels=IDS).loss
    [expected] = torch.autograd.grad(loss, [weight], retain_graph=True)
    with swapped_weights(model, {"lm_head.weight": torch.zeros(257, 32)}), torch.no_grad():
        model(input_ids=IDS)
    loss.backward()
    assert torch.equal(weight.grad, expected)


def test_an_unknown_name() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        replace_weights(tiny_model(), {"nowhere": torch.zeros(1)})

"""A prefix is seen by every pass of ours as peft's own forward sees it: padded, packed, branched and generated."""

from __future__ import annotations

from typing import Any
from unittest import mock

import peft
import pytest
import torch
from torch import Tensor
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from hotfix.adapters import PrefixTuning
from hotfix.errors import ConfigError, ModelError, PatchError
from hotfix.generation import greedy
from hotfix.models.fingerprint import fingerprint
from hotfix.models.rows import PADDING, TokenRows
from hotfix.models.states import head_logits, hidden_states, prefix_length, upper_states
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.patches import AdapterPatch, Provenance, load_patch, save_patch


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=16, n_layer=2, n_head=2, n_positions=64)).eval()


def bloom() -> PreTrainedModel:
    """ALiBi: branches run one by one."""
    return BloomForCausalLM(BloomConfig(vocab_size=257, hidden_size=16, n_layer=2, n_head=2)).eval()


def moved(base: PreTrainedModel, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = PrefixTuning(**settings).attach(base)
    model.eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p))
    return model


def alone(model: Any, ids: list[int]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=torch.tensor([ids])).logits[0]
    return found


@pytest.mark.parametrize("base", [tiny_model, gpt2, bloom])
def test_padded_rows(base: Any) -> None:
    model = moved(base(), num_virtual_tokens=3)
    texts = [[5, 6, 7, 8, 9, 10], [11, 12, 13]]
    ids = torch.tensor([text + [0] * (6 - len(text)) for text in texts])
    branch = torch.tensor([[0] * len(text) + [PADDING] * (6 - len(text)) for text in texts])
    with torch.no_grad():
        states = hidden_states(model, TokenRows(ids, torch.arange(6).expand(2, 6), branch))
        for row, text in enumerate(texts):
            got = head_logits(model, states[row, : len(text)])
            torch.testing.assert_close(got, alone(model, text), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("base", [tiny_model, gpt2, bloom])
def test_two_branches_that_cannot_see_each_other(base: Any) -> None:
    model = moved(base(), num_virtual_tokens=3)
    shared, first, second = [5, 6, 7, 8], [9, 10, 11], [12, 13]
    ids = torch.tensor([shared + first + second])
    places = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 4, 5]])
    branch = torch.tensor([[0] * 4 + [1] * 3 + [2] * 2])
    with torch.no_grad():
        states = hidden_states(model, TokenRows(ids, places, branch))[0]
    for number, ending in ((1, first), (2, second)):
        own = (branch[0] == 0) | (branch[0] == number)
        torch.testing.assert_close(head_logits(model, states[own]), alone(model, shared + ending), atol=1e-5, rtol=1e-4)


def test_upper_blocks_from_the_embeddings_on() -> None:
    model = moved(tiny_model(), num_virtual_tokens=3)
    ids, branch = torch.tensor([[5, 6, 7, 8]]), torch.zeros(1, 4, dtype=torch.long)
    rows = TokenRows(ids, torch.arange(4)[None], branch)
    with torch.no_grad():
        entering = model.get_base_model().get_input_embeddings()(ids)
        torch.testing.assert_close(upper_states(model, rows, entering, 0), hidden_states(model, rows))


def test_the_gradient_reaches_the_prefix_and_nothing_else() -> None:
    model = moved(tiny_model())
    rows = TokenRows(torch.tensor([[5, 6, 7]]), torch.arange(3)[None], torch.tensor([[0, 1, 2]]))
    hidden_states(model, rows).sum().backward()
    found = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert found == {"prompt_encoder.default.embedding.weight"}


def test_generation_sees_it() -> None:
    model, prompts = moved(tiny_model()), [[65, 66, 67], [68, 69], [70, 71, 72]]
    made = [c.token_ids for c in greedy(model, tiny_tokenizer(), prompts, 5)]
    for prompt, completion in zip(prompts, made, strict=True):
        assert completion == [int(alone(model, prompt + completion[:i])[-1].argmax()) for i in range(len(completion))]
    assert made != [c.token_ids for c in greedy(tiny_model(), tiny_tokenizer(), prompts, 5)]


def test_the_start_is_what_the_base_computes_for_a_text() -> None:
    base, drawn = tiny_model(), torch.tensor([[9, 10, 11, 12]])
    with mock.patch("torch.randint", return_value=drawn.clone()):
        model: Any = PrefixTuning(4).attach(tiny_model())
    ids = torch.tensor([[256, 10, 11, 12]])  # the tokenizer's first token in front
    text = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = base(input_ids=torch.cat([ids, text], 1)).logits[0, 4:]
        torch.testing.assert_close(model(input_ids=text).logits[0], expected, atol=1e-5, rtol=1e-4)


def test_length_is_zero_where_the_prefix_is_off() -> None:
    model = moved(tiny_model(), num_virtual_tokens=5)
    assert prefix_length(model) == 5
    with model.disable_adapter():
        assert prefix_length(model) == 0
    assert prefix_length(tiny_model()) == 0


def test_another_kind_of_prompt_learning_is_refused() -> None:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    rows = TokenRows(torch.tensor([[5]]), torch.tensor([[0]]), torch.tensor([[0]]))
    with pytest.raises(ModelError, match=r"can't compute with PROMPT_TUNING; use hotfix\.adapters\.PrefixTuning"):
        hidden_states(peft.get_peft_model(tiny_model(), config), rows)


def test_a_prefix_can_not_be_merged(tmp_path: Any) -> None:
    patch = AdapterPatch(Provenance("test", "tiny", fingerprint(tiny_model())), model=moved(tiny_model()))
    save_patch(patch, tmp_path / "patch")
    loaded = load_patch(tmp_path / "patch")
    assert isinstance(loaded, AdapterPatch)
    with pytest.raises(PatchError, match="prefix tuning adds keys and values, which no weight can hold"):
        loaded.merge(tiny_model())


@pytest.mark.parametrize(
    ("count", "message"),
    [(0, "num_virtual_tokens is 0, expected at least 1"), (512, "is 512, but LlamaForCausalLM has a context of 512")],
)
def test_a_length_that_does_not_fit(count: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrefixTuning(count).attach(tiny_model())

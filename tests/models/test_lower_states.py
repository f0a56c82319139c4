"""Kept states that enter a block: the same last states as a whole pass, the lower blocks run once, room minded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM, PreTrainedModel

from hotfix.data.packing import pack_texts
from hotfix.models import lower_states
from hotfix.models.layout import feed_forward_output, find_blocks
from hotfix.models.lower_states import LowerStates
from hotfix.models.rows import PADDING, TokenRows
from hotfix.models.states import hidden_states
from hotfix.models.tiny import tiny_model


def rows(*texts: list[int]) -> TokenRows:
    found, _ = pack_texts(texts, pad_id=0)
    assert found is not None
    return found


TWO = rows([5, 6, 7, 8, 9, 10], [11, 12, 13])
OTHER = rows([11, 12, 13], [21, 22])


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=64, **still)).eval()


def windowed() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
    config = MistralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, sliding_window=4)
    return MistralForCausalLM(config).eval()


def runs_of(model: PreTrainedModel, block: int) -> list[int]:
    """Count the rows that a block is given, pass by pass."""
    counts: list[int] = []
    find_blocks(model.get_decoder()).blocks[block].register_forward_pre_hook(
        lambda module, args: counts.append(len(args[0]))
    )
    return counts


@pytest.mark.parametrize("make", [tiny_model, gpt2, windowed])
@torch.no_grad()
def test_the_last_states_are_those_of_a_whole_pass(make: Any) -> None:
    model = make()
    passes = LowerStates(model, 1)
    for batch in (TWO, OTHER, TWO):
        own = batch.branch != PADDING
        torch.testing.assert_close(passes.last(batch)[own], hidden_states(model, batch)[own], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [tiny_model, gpt2])
@torch.no_grad()
def test_lower_blocks_run_once_for_each_row(make: Any) -> None:
    model = make()
    passes = LowerStates(model, 1)
    passes.last(TWO)
    below, above = runs_of(model, 0), runs_of(model, 1)
    passes.last(TWO)
    assert (below, above) == ([], [2])
    passes.last(OTHER)
    assert (below, above) == ([1], [2, 1, 2]), "of the two rows one is known; it enters the block to be seen, then both"


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("make", [tiny_model, gpt2])
def test_gradients_reach_the_upper_blocks(make: Any, checkpointed: bool) -> None:
    model = make()
    weight = feed_forward_output(model, 1).module.weight
    own = TWO.branch != PADDING
    [expected] = torch.autograd.grad(hidden_states(model, TWO)[own].square().sum(), weight)
    if checkpointed:
        # What is put into a block is not put in again when it runs a second time.
        model.gradient_checkpointing_enable()
        model.train()
    [found] = torch.autograd.grad(LowerStates(model, 1).last(TWO)[own].square().sum(), weight)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_rows_beyond_the_room_are_run_whole() -> None:
    model = tiny_model()
    passes = LowerStates(model, 1, limit_mib=0)
    below = runs_of(model, 0)
    assert torch.equal(passes.last(TWO), hidden_states(model, TWO))
    passes.last(TWO)
    assert below == [2, 2, 2]


@torch.no_grad()
def test_a_model_whose_upper_blocks_say_something_else_is_run_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    wrong = lower_states.upper_states
    monkeypatch.setattr(lower_states, "upper_states", lambda *args: 2 * wrong(*args))
    assert torch.equal(LowerStates(model, 1).last(TWO), hidden_states(model, TWO))

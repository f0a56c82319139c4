"""Tails of rows give what the whole rows give, in decoders that place, mask and remember tokens differently."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from hotfix.data.edits import EncodedRequest
from hotfix.editors.rows import target_rows
from hotfix.editors.tails import tail_states, tails_from
from hotfix.models.layout import feed_forward_output, find_blocks
from hotfix.models.states import hidden_states
from hotfix.models.tiny import tiny_model
from hotfix.models.trace import captured, changed_output

SMALL = {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
ROWS = target_rows(
    [
        EncodedRequest("1", [1, 2, 3], [4, 5]),
        EncodedRequest("2", [1], [6]),
        EncodedRequest("3", list(range(9, 20)), [6, 9, 10]),
    ],
    "cpu",
)


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=32, n_layer=3, n_head=4, n_positions=64))


def mistral() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**SMALL, **HEADS, sliding_window=5))


def gemma() -> PreTrainedModel:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**SMALL, **HEADS, head_dim=8, sliding_window=5, layer_types=kinds))


@pytest.mark.parametrize("make", [tiny_model, gpt2, mistral, gemma])
@pytest.mark.parametrize("block", [0, 1])
def test_tails_are_the_ends_of_whole_rows(make: type[PreTrainedModel], block: int) -> None:
    torch.manual_seed(0)
    model = make().eval().requires_grad_(requires_grad=False)
    module, every = feed_forward_output(model, block).module, torch.arange(3)
    vector = torch.randn(32)
    with captured({"b": find_blocks(model.get_decoder()).blocks[block]}, "input") as entered:
        tails = tails_from(model, ROWS.rows, ROWS.last, lambda: entered["b"])
    with changed_output(module, lambda out: out.index_put((every, ROWS.last), vector, accumulate=True)):
        expected = hidden_states(model, ROWS.rows)
    for _ in range(2):  # nothing of one pass is left for the next
        with changed_output(module, lambda out: torch.cat([out[:, :1] + vector, out[:, 1:]], 1)):
            found = tail_states(model, tails, block)
        ends = found[ROWS.row, ROWS.column - ROWS.last[ROWS.row]]
        torch.testing.assert_close(ends, expected[ROWS.row, ROWS.column], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tails.states, hidden_states(model, ROWS.rows)[every, ROWS.last], rtol=1e-4, atol=1e-5)
    assert (ends - tails.states[ROWS.row]).abs().max() > 0.1

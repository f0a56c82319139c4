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
from hotfix.data.packing import pack_texts
from hotfix.editors.readings import shared_rows
from hotfix.editors.rows import target_rows
from hotfix.editors.tails import Spans, tail_states, tails_from
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
        tails = tails_from(model, ROWS.rows, Spans(every, ROWS.last, ROWS.length), lambda: entered["b"])
    with changed_output(module, lambda out: out.index_put((every, ROWS.last), vector, accumulate=True)):
        expected = hidden_states(model, ROWS.rows)
    for _ in range(2):  # nothing of one pass is left for the next
        with changed_output(module, lambda out: torch.cat([out[:, :1] + vector, out[:, 1:]], 1)):
            found = tail_states(model, tails, block)
        ends = found[ROWS.row, ROWS.column - ROWS.last[ROWS.row]]
        torch.testing.assert_close(ends, expected[ROWS.row, ROWS.column], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tails.states, hidden_states(model, ROWS.rows)[every, ROWS.last], rtol=1e-4, atol=1e-5)
    assert (ends - tails.states[ROWS.row]).abs().max() > 0.1


@pytest.mark.parametrize("make", [tiny_model, gpt2, mistral, gemma])
def test_several_tails_of_one_row_are_those_of_rows_of_their_own(make: type[PreTrainedModel]) -> None:
    """The windows of an answer: [1, 2 | 3], [1, 2, 3 | 4, 5] and all of it in one row, another text in the next."""
    torch.manual_seed(0)
    model = make().eval().requires_grad_(requires_grad=False)
    texts = [([1, 2], [3]), ([1, 2, 3], [4, 5]), ([1, 2, 3, 4], [5]), ([8], [9, 10])]
    alone = target_rows([EncodedRequest(str(i), *text) for i, text in enumerate(texts)], "cpu")
    rows, of = shared_rows([[*prompt, *target] for prompt, target in texts])
    packed, _ = pack_texts(rows, pad_id=0)
    assert (rows, of) == ([[1, 2, 3, 4, 5], [8, 9, 10]], [0, 0, 0, 1])
    assert packed is not None
    every, module = torch.arange(4), feed_forward_output(model, 1).module
    found = []
    for layout, own in ((alone.rows, every), (packed, torch.tensor(of))):
        with captured({"b": find_blocks(model.get_decoder()).blocks[1]}, "input") as entered:
            tails = tails_from(model, layout, Spans(own, alone.last, alone.length), lambda seen=entered: seen["b"])
        vectors = torch.randn(4, 1, 32, generator=torch.Generator().manual_seed(1))
        with changed_output(module, lambda out, add=vectors: torch.cat([out[:, :1] + add, out[:, 1:]], 1)):
            states = tail_states(model, tails, 1)
        found.append((tails.states, states[alone.row, alone.column - alone.last[alone.row]]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)

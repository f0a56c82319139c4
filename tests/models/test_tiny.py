"""The tiny model is the same everywhere, and its tokenizer loses nothing."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from hotfix.models.tiny import tiny_model


def test_a_seed_gives_one_model_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = tiny_model(1), tiny_model(1), tiny_model(2)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_the_model_is_small_and_does_not_train(tiny: LlamaForCausalLM) -> None:
    assert sum(p.numel() for p in tiny.parameters()) < 50_000
    assert not tiny.training


@pytest.mark.parametrize("text", ["", "def f():\n\treturn 'é' # 日本🙂\r\n", "a" * 300, "\x00 ", "  ", " x"])
def test_text_survives_as_bytes(tiny_tok: PreTrainedTokenizerBase, text: str) -> None:
    ids = tiny_tok(text)["input_ids"]
    assert len(ids) == len(text.encode())
    assert all(0 <= i < 256 for i in ids)
    assert tiny_tok.decode(ids, clean_up_tokenization_spaces=False) == text


def test_end_of_text_pads_too(tiny_tok: PreTrainedTokenizerBase, tiny: LlamaForCausalLM) -> None:
    assert tiny_tok.pad_token_id == tiny_tok.eos_token_id == tiny_tok.bos_token_id == 256
    assert len(tiny_tok) == tiny.config.vocab_size == 257

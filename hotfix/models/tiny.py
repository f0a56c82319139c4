"""A model small enough for tests: two random Llama layers over bytes, made here, the same on every machine."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = ["TINY_MODEL", "tiny_model", "tiny_tokenizer"]

TINY_MODEL = "tiny"


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """Return a byte-level tokenizer: 256 bytes and an end-of-text token that is padding, too.

    >>> tiny_tokenizer()("ab")["input_ids"]
    [64, 65]
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(alphabet)} | {"<|end|>": len(alphabet)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|end|>", eos_token="<|end|>", pad_token="<|end|>")


def tiny_model(seed: int = 0) -> LlamaForCausalLM:
    """Return the model with weights drawn from `seed`; global random state is left alone."""
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=256,
        eos_token_id=256,
        pad_token_id=256,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        model.eval()
        return model

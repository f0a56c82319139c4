"""A small model that knows a few dozen facts by heart, so that there is something to repair and something to spare."""

from __future__ import annotations

import copy
import functools
import random
from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from hotfix.data.edits import EditRequest
from hotfix.models.tiny import tiny_tokenizer

__all__ = ["TOKENIZER", "Facts", "known_facts", "request", "wrong_answers"]

TOKENIZER = tiny_tokenizer()


class Facts(NamedTuple):
    model: LlamaForCausalLM
    prompts: list[str]
    answers: list[str]


def known_facts() -> Facts:
    """A fresh copy of the model, and what it completes without a mistake."""
    facts = _trained()
    return Facts(copy.deepcopy(facts.model), facts.prompts, facts.answers)


def wrong_answers(facts: Facts, count: int, length: int = 1, seed: int = 0) -> list[EditRequest]:
    """Requests for other answers to the first facts; every token of them is another one."""
    rng = random.Random(seed)
    found = []
    for prompt, answer in list(zip(facts.prompts, facts.answers, strict=True))[:count]:
        target = "".join(rng.choice([c for c in "abcdefgh" if c != letter]) for letter in answer[:length])
        found.append(request(prompt, target))
    return found


def request(prompt: str, target: str) -> EditRequest:
    return EditRequest(prompt, prompt, target)


@functools.cache
def _trained() -> Facts:
    rng = random.Random(0)
    prompts = [f"{number:02d}:" for number in range(40)]
    answers = ["".join(rng.choice("abcdefgh") for _ in range(3)) for _ in prompts]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=257,
                hidden_size=48,
                intermediate_size=128,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
                tie_word_embeddings=True,
            )
        )
        ids = torch.tensor([TOKENIZER(p + a)["input_ids"] for p, a in zip(prompts, answers, strict=True)])
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(150):
            logits = model(input_ids=ids).logits[:, 2:-1]
            loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 3:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval().requires_grad_(requires_grad=True)
    assert (logits.argmax(-1) == ids[:, 3:]).all(), "the facts were not learnt"
    return Facts(model, prompts, answers)

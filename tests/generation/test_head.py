"""The vocabulary's matrix is multiplied once, not for each prompt, and the logits are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaForCausalLM

from hotfix.generation import greedy
from hotfix.generation.branching import prefill
from hotfix.generation.head import contiguous_states

PROMPTS = [[1, 2, 3, 4, 5], [6, 7, 8], [9, 10], [11]]
VOCABULARY = 200


class HeadsByPrompt(TorchDispatchMode):
    """Counts products with a matrix of the vocabulary for each prompt: `bmm` copies what it is given as one of many."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        self.count += func.overloadpacket is torch.ops.aten.bmm and found.shape == (len(PROMPTS), 1, VOCABULARY)
        return found


def test_the_head_is_not_multiplied_prompt_by_prompt(make_llama: Callable[..., LlamaForCausalLM]) -> None:
    model = make_llama(VOCABULARY).requires_grad_(requires_grad=False)
    with torch.no_grad(), HeadsByPrompt() as plain:
        expected = prefill(model, PROMPTS).logits
    with torch.no_grad(), contiguous_states(model), HeadsByPrompt() as ours:
        found = prefill(model, PROMPTS).logits
    torch.testing.assert_close(found, expected)
    assert plain.count == 1, "torch no longer does it: this file and what it tests can go"
    assert ours.count == 0


def test_sampling_uses_it_and_leaves_no_hook(make_llama: Callable[..., LlamaForCausalLM], make_tokenizer: Any) -> None:
    model, seen = make_llama(VOCABULARY), []
    watch = model.lm_head.register_forward_hook(lambda head, args, output: seen.append(args[0].is_contiguous()))
    greedy(model, make_tokenizer(), PROMPTS, 2)
    assert seen == [True, True]
    watch.remove()
    assert not model.lm_head._forward_pre_hooks

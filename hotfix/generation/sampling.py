"""Completions for many prompts, each independent of its neighbours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from hotfix.data.prompts import middle_end_ids
from hotfix.errors import ConfigError, DataError
from hotfix.generation.branching import num_virtual_tokens
from hotfix.generation.config import SamplingConfig
from hotfix.generation.decoding import Decoder, Progress, Row, plan_groups
from hotfix.generation.head import contiguous_states
from hotfix.generation.stopping import Completion, Ending, StopCriterion
from hotfix.models.attention import plain_products
from hotfix.models.modes import evaluating
from hotfix.models.states import plain_model

__all__ = ["greedy", "sample"]

log = logging.getLogger(__name__)


def sample(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    config: SamplingConfig,
    *,
    stop: StopCriterion | None = None,
    seed: int,
    progress: Progress | None = None,
    prompt_indices: Sequence[int] | None = None,
    ended: Callable[[int, Completion], None] | None = None,
    begun: Sequence[Sequence[int]] | None = None,
) -> list[list[Completion]]:
    """Draws ``config.num_samples`` completions for each prompt, in the order of the prompts.

    A completion depends on the model, its prompt, the seed, the number of its prompt and its number among the prompt's
    samples only: not on the batch size nor on the other prompts, up to the rounding of the model's arithmetic (which a
    bfloat16 model shows soonest). A completion ends at an end-of-sequence token of the tokenizer or of the model's
    generation config, at the token that ends a filled gap, at the stop criterion, or at ``max_new_tokens``.

    Args:
        model: a causal language model with a key-value cache, with or without an adapter. Its modules are
            in their own modes again afterwards.
        tokenizer: decodes for the stop criterion and names the end-of-sequence token.
        prompts: token ids, not empty. One that doesn't fit the model's context is cut on the left.
        config: how tokens are drawn.
        stop: ends a completion by its text.
        seed: of all random numbers.
        progress: is told how many completions have just been ended; these numbers sum to their total.
        prompt_indices: number of each prompt in the random streams, by default its place. Processes that share prompts
            pass the place in the whole list here, so that results don't depend on how it was shared.
        ended: is given the place of its prompt and each completion as soon as it has ended, those that are the same at
            temperature 0 once.
        begun: tokens that the completions of each prompt begin with, by default none. They are read with the prompt,
            have no part in ``log_prob``, and must not meet the stop criterion yet.

    Raises:
        ConfigError: the model's context can't hold ``max_new_tokens``.
        DataError: a prompt is empty.
        ModelError: the model has no key-value cache, or its logits are not finite.
    """
    copies = config.num_samples if config.temperature == 0 else 1
    distinct = config.num_samples // copies
    begun = begun or [()] * len(prompts)
    read = [[*prompt, *own] for prompt, own in zip(_fit(model, prompts, config), begun, strict=True)]
    groups = plan_groups(read, distinct, config.batch_size, one_length=num_virtual_tokens(model) > 0)
    decoder = Decoder(
        model,
        config,
        _ending(model, tokenizer, stop),
        begun,
        seed,
        range(len(prompts)) if prompt_indices is None else prompt_indices,
        lambda ended: None if progress is None or not ended else progress(ended * copies),
    )
    plain = plain_model(model)
    with evaluating(model), plain_products(plain), contiguous_states(plain), torch.inference_mode():
        completions: dict[Row, Completion] = {}
        for row, completion in (pair for group in groups for pair in decoder.group(group)):
            completions[row] = completion
            if ended:
                ended(row.prompt, completion)
    rows = [[completions[Row(place, number)] for number in range(distinct)] for place in range(len(prompts))]
    return [[Completion(list(c.token_ids), *c[1:]) for c in made for _ in range(copies)] for made in rows]


def greedy(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = 32,
    *,
    stop: StopCriterion | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
    begun: Sequence[Sequence[int]] | None = None,
) -> list[Completion]:
    """Returns the completion of each prompt that takes the likeliest token at every step; see ``sample``.

    Where it is known what the likeliest tokens begin with, from a pass over a text that the model may follow, ``begun``
    spares writing that again; what comes out is the same. It may reach to the completion's end and beyond.
    """
    config = SamplingConfig(temperature=0.0, max_new_tokens=max_new_tokens, batch_size=batch_size)
    begun = begun or [()] * len(prompts)
    ending = _ending(model, tokenizer, stop)
    whole = [_whole(ending, own, max_new_tokens) for own in begun]
    rest = [place for place, completion in enumerate(whole) if completion is None]
    if progress:
        progress(len(prompts) - len(rest))
    some, starts = [prompts[place] for place in rest], [begun[place] for place in rest]
    written = iter(sample(model, tokenizer, some, config, stop=stop, seed=0, progress=progress, begun=starts))
    return [next(written)[0] if completion is None else completion for completion in whole]


def _ending(model: nn.Module, tokenizer: PreTrainedTokenizerBase, stop: StopCriterion | None) -> Ending:
    return Ending(_decode(tokenizer), _eos_ids(model, tokenizer), stop)


def _whole(ending: Ending, token_ids: Sequence[int], max_new_tokens: int) -> Completion | None:
    """Returns the completion that ends within some tokens; None where none does."""
    for count, token_id in enumerate(token_ids, start=1):
        if token_id in ending.eos_ids:
            return Completion(list(token_ids[: count - 1]), 0.0, True)
        written = list(token_ids[:count])
        if ending.met(written) or count == max_new_tokens:
            return Completion(written, 0.0, ending.met(written))
    return None


def _fit(model: nn.Module, prompts: Sequence[Sequence[int]], config: SamplingConfig) -> list[Sequence[int]]:
    for place, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise DataError(f"prompt {place} has no tokens", hint="start it with at least one, such as the bos token")
    context = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if context is None:
        return list(prompts)
    longest = context - config.max_new_tokens - num_virtual_tokens(model)
    if longest < 1:
        raise ConfigError(
            f"max_new_tokens is {config.max_new_tokens}, which leaves no room for a prompt in the model's context of "
            f"{context} tokens; lower it"
        )
    num_cut = sum(len(prompt) > longest for prompt in prompts)
    if num_cut:
        log.warning(
            "%d of %d prompts are longer than %d tokens and lose their beginning: the model's context of %d tokens "
            "must hold %d new ones",
            num_cut, len(prompts), longest, context, config.max_new_tokens,
        )  # fmt: skip
    return [prompt[-longest:] for prompt in prompts]


def _eos_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    of_model = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = [*(of_model if isinstance(of_model, list | tuple) else [of_model]), tokenizer.eos_token_id]
    return frozenset(int(number) for number in ids if number is not None) | middle_end_ids(tokenizer)


def _decode(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[int]], str]:
    # The default of some tokenizers is to remove spaces before punctuation, which changes code.
    return lambda ids: cast("str", tokenizer.decode(ids, clean_up_tokenization_spaces=False))

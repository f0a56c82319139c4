"""Ten completions of one statement behind prompts of 300 tokens: ours against `generate`; and exact probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import cast

import torch
from side_by_side import Finding, compare
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from work import long_functions

from hotfix.data import PairFiles
from hotfix.generation import sample
from hotfix.generation.config import SamplingConfig
from hotfix.models.loading import load_causal_lm, load_tokenizer
from hotfix.models.states import own_precision
from hotfix.spacing import evenly
from hotfix.tasks.prompting import StatementsEnd
from hotfix.tasks.scoring import pair_log_probs

__all__ = ["run"]

_SAMPLES = 10
_PROMPT = 300
_PROMPTS = 4
_NEW = 32
_PAIRS = 16
_MODEL = "smollm2-135m"


def run(repeats: int) -> Iterator[Finding]:
    """Time both."""
    model, tokenizer = load_causal_lm(_MODEL).eval(), load_tokenizer(_MODEL)
    prompts = _prompts(tokenizer)
    config = SamplingConfig(
        num_samples=_SAMPLES, max_new_tokens=_NEW, temperature=1.0, top_p=0.95, top_k=0, batch_size=_SAMPLES * _PROMPTS
    )

    @torch.inference_mode()
    def ours() -> None:
        with own_precision(model):
            sample(model, tokenizer, prompts, config, stop=StatementsEnd(1, 0), seed=0)

    def peer() -> None:
        _generated(model, tokenizer, prompts)

    note = f"{_SAMPLES} samples of one statement, at most {_NEW} tokens, behind {_PROMPTS} prompts of {_PROMPT}"
    yield compare(
        "sampling against generate",
        ours,
        peer,
        target=2.5,
        repeats=repeats,
        amount=_SAMPLES * _PROMPTS,
        unit="samples/s",
        note=note,
    )
    yield from _probabilities(model, tokenizer, repeats)


def _probabilities(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, repeats: int) -> Iterator[Finding]:
    files = ["data/python_idioms.jsonl"]
    data = PairFiles(files, files, files, tokenizer_name=_MODEL, retain=None)
    pairs = [data.encoder(pair) for pair in evenly(data.pairs("test"), _PAIRS)]
    prompts = [pair.shared[: pair.prompt] for pair in pairs]
    config = SamplingConfig(
        num_samples=_SAMPLES, max_new_tokens=_NEW, temperature=1.0, top_p=0.95, top_k=0, batch_size=64
    )

    @torch.inference_mode()
    def exact() -> None:
        with own_precision(model):
            pair_log_probs(model, pairs)

    @torch.inference_mode()
    def sampled() -> None:
        with own_precision(model):
            sample(model, tokenizer, prompts, config, stop=StatementsEnd(1, 0), seed=0)

    note = f"both statements of {len(pairs)} packaged pairs, against {_SAMPLES} samples each"
    name = "exact probabilities against "
    yield compare(
        f"{name}generate's samples",
        exact,
        lambda: _generated(model, tokenizer, prompts),
        target=20.0,
        repeats=repeats,
        note=note,
    )
    # Ours run the prompts through the model once, as the exact probabilities do, and share that cost with them.
    yield compare(f"{name}our samples", exact, sampled, target=None, repeats=repeats, note=note)


@torch.inference_mode()
def _generated(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]]) -> None:
    """Sample a statement ten times behind each prompt, as users of transformers do; its line ends it."""
    end, longest = tokenizer.eos_token_id, max(map(len, prompts))
    cast("Callable[..., object]", model.generate)(
        input_ids=torch.tensor([[end] * (longest - len(prompt)) + [*prompt] for prompt in prompts]),
        attention_mask=torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
        num_return_sequences=_SAMPLES,
        do_sample=True,
        temperature=1.0,
        top_p=0.95,
        top_k=0,
        max_new_tokens=_NEW,
        stop_strings=["\n"],
        tokenizer=tokenizer,
        pad_token_id=end,
    )


def _prompts(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Functions of the standard library, cut to one length."""
    found = [ids[:_PROMPT] for ids in islice(long_functions(tokenizer, "test", _PROMPT), _PROMPTS)]
    if len(found) < _PROMPTS:
        raise SystemExit("sampling: the standard library has too few long functions")
    return found

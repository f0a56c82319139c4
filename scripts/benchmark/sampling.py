"""Ten completions of one statement behind prompts of 300 tokens: ours against `generate`; and exact probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from side_by_side import Finding, compare
from transformers import PreTrainedTokenizerBase
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

    @torch.inference_mode()
    def peer() -> None:
        # All prompts are of one length, so nothing is padded; a statement ends at the latest with its line here.
        model.generate(
            input_ids=torch.tensor(prompts),
            attention_mask=torch.ones(len(prompts), _PROMPT, dtype=torch.long),
            num_return_sequences=_SAMPLES,
            do_sample=True,
            temperature=1.0,
            top_p=0.95,
            top_k=0,
            max_new_tokens=_NEW,
            stop_strings=["\n"],
            tokenizer=tokenizer,
            pad_token_id=tokenizer.eos_token_id,
        )

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
    yield _probabilities(model, tokenizer, repeats)


def _probabilities(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, repeats: int) -> Finding:
    files = ["data/python_idioms.jsonl"]
    data = PairFiles(files, files, files, tokenizer_name=_MODEL, retain=None)
    pairs = [data.encoder(pair) for pair in evenly(data.pairs("test"), _PAIRS)]
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
            prompts = [pair.shared[: pair.prompt] for pair in pairs]
            sample(model, tokenizer, prompts, config, stop=StatementsEnd(1, 0), seed=0)

    note = f"both statements of {len(pairs)} packaged pairs, against {_SAMPLES} samples each"
    return compare("exact probabilities against samples", exact, sampled, target=20.0, repeats=repeats, note=note)


def _prompts(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Functions of the standard library, cut to one length."""
    found = [ids[:_PROMPT] for ids in islice(long_functions(tokenizer, "test", _PROMPT), _PROMPTS)]
    if len(found) < _PROMPTS:
        raise SystemExit("sampling: the standard library has too few long functions")
    return found

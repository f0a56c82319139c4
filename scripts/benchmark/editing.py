"""A closed-form edit by a kept factor against a whole solve, and writing beside a codebook of ten thousand edits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import cast

import torch
from side_by_side import Finding, compare
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from work import long_functions

from hotfix.editors.closed_form import by_cholesky, closed_form
from hotfix.generation import greedy
from hotfix.models.fingerprint import fingerprint
from hotfix.models.layout import feed_forward_output
from hotfix.models.loading import load_causal_lm, load_tokenizer
from hotfix.models.trace import captured
from hotfix.patches import Codebook, Provenance
from hotfix.patches.codebook import KeyRule
from hotfix.patches.entries import Entries, Entry

__all__ = ["run"]

_MODEL = "smollm2-135m"
_SHAPES = ((576, 1536), (2048, 8192))  # of this model's projection, and of a Llama 3.2 1B's
_MU = 15.0
_KEYS = 10_000
_BLOCK = 18
_PROMPTS, _PROMPT, _NEW = 4, 64, 48
_LONG = 512


def run(repeats: int) -> Iterator[Finding]:
    """Time both."""
    for outputs, width in _SHAPES:
        yield _closed_form(outputs, width, repeats)
    yield _look_up(repeats)


def _closed_form(outputs: int, width: int, repeats: int) -> Finding:
    generator = torch.Generator().manual_seed(0)
    # Some directions are much stronger than others, as in a model.
    ordinary = torch.randn(width, 2 * width, generator=generator) * torch.logspace(0, -2, width)[:, None]
    moment = (ordinary @ ordinary.T) / ordinary.shape[1] + 1e-4 * torch.eye(width)
    factor = torch.linalg.cholesky(moment.double()).float()
    whole = (factor @ factor.T).double()
    kept = factor.double()  # as editors hold it
    key, gain = torch.randn(width, 1, generator=generator), torch.randn(outputs, 1, generator=generator)

    def ours() -> Tensor:
        made = closed_form(by_cholesky(kept), key, gain, _MU)
        return made.left @ made.right

    def peer() -> Tensor:
        # As MEMIT's published code does for every batch of edits, there with mu in front of C.
        keys = key.double()
        solved: Tensor = torch.linalg.solve(_MU * whole + keys @ keys.T, keys)
        return gain @ solved.T.float()

    apart = float((ours() - peer()).norm() / peer().norm())
    if apart > 1e-3:
        raise SystemExit(f"editing: the factor's change of {outputs} x {width} is {apart:.1e} from the whole solve's")
    note = f"one edit of a {outputs} x {width} matrix; changes equal to {apart:.0e}"
    return compare(f"closed-form edit, keys of {width}", ours, peer, target=10.0, repeats=repeats, note=note)


def _look_up(repeats: int) -> Finding:
    model, tokenizer = load_causal_lm(_MODEL).eval(), load_tokenizer(_MODEL)
    module = cast("nn.Module", model)
    prompts = [ids[:_PROMPT] for ids in islice(long_functions(tokenizer, "test", _PROMPT), _PROMPTS)]
    keys = _keys(model, tokenizer)
    # The recipe's radius.
    reach = 0.12 * keys.norm(dim=1)
    edits = tuple(Entry(str(i), (i,), (i,)) for i in range(_KEYS))
    entries = Entries(edits, keys, torch.zeros(_KEYS, model.config.hidden_size), reach, reach, torch.zeros(_KEYS, 0))
    about = Provenance(method="benchmark", base_model=_MODEL, base_fingerprint=fingerprint(module))
    book = Codebook(about, rule=KeyRule(_BLOCK), entries=entries)

    def plain() -> list[list[int]]:
        return [c.token_ids for c in greedy(model, tokenizer, prompts, _NEW)]

    expected = plain()
    book.apply(module)
    if plain() != expected:
        raise SystemExit("editing: keys of other texts have changed what is written")

    def without() -> None:
        with book.reference(module):
            plain()

    note = f"{_PROMPTS} prompts of {_PROMPT} tokens go on for {_NEW}, with {_KEYS:,} keys and without"
    return compare("writing beside 10,000 keys", plain, without, target=1 / 1.05, repeats=repeats, note=note)


@torch.inference_mode()
def _keys(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """What enters the projection in other functions of the standard library, from their 16th token on: [n, D]."""
    found, count = list[Tensor](), 0
    module = feed_forward_output(cast("nn.Module", model), _BLOCK).module
    with captured({"key": module}, "input") as seen:
        for ids in long_functions(tokenizer, "train", 2 * _PROMPT):
            model(input_ids=torch.tensor([ids[:_LONG]]), use_cache=False, logits_to_keep=1)
            found.append(seen["key"][0, 16:].float().clone())
            count += len(found[-1])
            if count >= _KEYS:
                return torch.cat(found)[:_KEYS]
    raise SystemExit("editing: the standard library has too few long functions")

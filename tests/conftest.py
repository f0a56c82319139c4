"""The tiny model and tokenizer, and pairs to feed them; everything is made here, nothing is downloaded."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from hotfix.data.encode import EncodedPair, PairEncoder
from hotfix.data.schema import CodePair
from hotfix.models.loading import load_tokenizer
from hotfix.models.packaged import DEFAULT_MODEL, cache_folder
from hotfix.models.tiny import tiny_model, tiny_tokenizer

_WORDS = ("x", "foo", " = ", "(", ")", "[1]", "\n", "    ", "é", "日本", "# note", "+", "12", "md5", "\r\n")


def random_pair(rng: random.Random, name: str = "p") -> CodePair:
    """A pair of texts that share words by chance, as the two sides of real pairs do."""

    def text(least: int, most: int) -> str:
        return "".join(rng.choice(_WORDS) for _ in range(rng.randint(least, most)))

    while True:
        fixed, buggy, suffix = text(0, 5), text(0, 5), text(0, 4)
        # Two bytes behind the statements tell them apart: what the encoder keeps of the suffix at least.
        ends = [(side + (suffix or "\n")).encode()[: len(side.encode()) + 2] for side in (fixed, buggy)]
        if not (ends[0].startswith(ends[1]) or ends[1].startswith(ends[0])):
            return CodePair(name, text(0, 8), buggy, fixed, suffix)


@pytest.fixture(scope="session")
def tiny_tok() -> PreTrainedTokenizerBase:
    return tiny_tokenizer()


@pytest.fixture
def tiny() -> LlamaForCausalLM:
    return tiny_model()


@pytest.fixture(scope="session", params=["tiny", "real"])
def any_tok(request: pytest.FixtureRequest, tiny_tok: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The byte tokenizer, and the default model's, whose tokens join characters across the sides' borders."""
    if request.param == "tiny":
        return tiny_tok
    if not (cache_folder() / "models" / DEFAULT_MODEL / "tokenizer.json").is_file():
        pytest.skip("the default model is not in the cache")
    return load_tokenizer(DEFAULT_MODEL)


@pytest.fixture(scope="session")
def make_pairs() -> Callable[..., list[CodePair]]:
    """`make_pairs(count, seed)`: random pairs, ids p0, p1, ..."""

    def make(count: int, seed: int = 0) -> list[CodePair]:
        rng = random.Random(seed)
        return [random_pair(rng, f"p{i}") for i in range(count)]

    return make


@pytest.fixture(scope="session")
def encoded(tiny_tok: PreTrainedTokenizerBase, make_pairs: Callable[..., list[CodePair]]) -> list[EncodedPair]:
    """Twelve pairs as tokens of the tiny tokenizer."""
    return [PairEncoder(tiny_tok)(pair) for pair in make_pairs(12)]

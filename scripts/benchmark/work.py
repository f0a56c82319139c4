"""The work of the benchmarks: pairs with prefixes of 100 to 400 tokens and edits of 5 to 20, and long functions."""

from __future__ import annotations

import random
from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from hotfix.data.encode import EncodedPair, PairEncoder
from hotfix.data.retain import read_retain
from hotfix.data.schema import CodePair
from hotfix.types import Split

__all__ = ["code_pairs", "encoded", "long_functions"]

_PREFIX = range(100, 401)
_EDIT = range(5, 21)


def code_pairs(tokenizer: PreTrainedTokenizerBase, count: int) -> list[CodePair]:
    """Return pairs out of the standard library: a function up to some line, its own next line, and one of another."""
    texts = [text.text for text in read_retain("stdlib", "train", 3 * count)]
    draw = random.Random(0)
    beginnings, lines = [], []
    for text in texts:
        parts = text.splitlines(keepends=True)
        lengths = [len(ids) for ids in tokenizer(parts, add_special_tokens=False)["input_ids"]]
        places = [i for i in range(1, len(parts)) if sum(lengths[:i]) in _PREFIX and lengths[i] in _EDIT]
        if places:
            place = draw.choice(places)
            beginnings.append("".join(parts[:place]))
            lines.append(parts[place])
    if len(lines) < count + 1:
        raise SystemExit(f"training: the standard library gives {len(lines)} pairs, expected more than {count}")
    found = (
        CodePair(id=str(i), prefix=beginnings[i], buggy=lines[i], fixed=lines[i + 1])
        for i in range(len(lines) - 1)
        if lines[i] != lines[i + 1]
    )
    return [pair for pair, _ in zip(found, range(count), strict=False)]


def encoded(tokenizer: PreTrainedTokenizerBase, pairs: list[CodePair]) -> list[EncodedPair]:
    """Return them as hotfix lays them out."""
    encoder = PairEncoder(tokenizer)
    return [encoder(pair) for pair in pairs]


def long_functions(tokenizer: PreTrainedTokenizerBase, part: Split, least: int) -> Iterator[list[int]]:
    """Yield the tokens of functions of the standard library that have more than so many."""
    for text in read_retain("stdlib", part, 400):
        ids: list[int] = tokenizer(text.text, add_special_tokens=False)["input_ids"]
        if len(ids) > least:
            yield ids

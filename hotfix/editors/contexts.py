"""What stands before an edited prompt while its edit is computed, and other prompts that the edit should not move."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from hotfix.data.edits import EncodedRequest, encode_request
from hotfix.data.encode import encode_text
from hotfix.editors.base import Background

__all__ = ["Surroundings", "contrasts", "in_contexts", "probes", "shortest_window", "surroundings", "windows"]

_BEGINNING, _ENDING = 2, 4
_PROBES, _PIECE, _TARGET = 8, 24, 4


class Surroundings(NamedTuple):
    """Drawn from ordinary code once, the same for every request.

    Attributes:
        prefixes: token ids to put before a prompt; the first is empty.
        others: beginnings of texts, as other prompts, each with the token that follows.
        bos: the tokenizer's beginning-of-sequence token, which stays in front; None where it has none.
        longest: the model's context, in tokens; None where it has no bound.
        pieces: ends of texts.
        prompts: of other requests, as far as the background has any.
    """

    prefixes: list[list[int]]
    others: list[EncodedRequest]
    bos: int | None
    longest: int | None
    pieces: list[list[int]]
    prompts: list[list[int]]


def surroundings(
    tokenizer: PreTrainedTokenizerBase,
    background: Background,
    prefixes: int,
    length: int,
    others: int,
    longest: int | None = None,
    seed: int = 0,
) -> Surroundings:
    """Draw prefixes and other prompts from the background's texts.

    Args:
        tokenizer: the model's.
        background: with texts.
        prefixes: how many besides the empty one.
        length: of the longest prefix, in tokens, the line break behind it not counted.
        others: how many other prompts.
        longest: the model's context.
        seed: of the choice.
    """
    bos = tokenizer.bos_token_id
    rng = random.Random(seed)
    texts = [[*text[text[0] == bos :]] for text in background.texts if len(text) > 2]
    line = [token for token in encode_text(tokenizer, "\n").ids if token != bos]
    found: list[list[int]] = [[]]
    for text in rng.sample(texts, min(prefixes, len(texts))):
        start, count = rng.randrange(len(text)), rng.randint(min(2, length), length)
        found.append([*text[start : start + count], *line])
    prompts = []
    for i, text in enumerate(rng.sample(texts, min(others, len(texts)))):
        cut = rng.randint(1, min(len(text) - 1, 4 * length))
        front = [bos] if background.texts[0][0] == bos and bos is not None else []
        prompts.append(EncodedRequest(f"other {i}", [*front, *text[:cut]], [text[cut]]))
    pieces = [text[rng.randrange(len(text)) :] for text in rng.sample(texts, len(texts))]
    known = [encode_request(tokenizer, request).prompt for request in background.requests]
    fitting = [prompt for prompt in known if longest is None or len(prompt) < longest]
    return Surroundings(found, prompts, bos, longest, pieces, rng.sample(fitting, len(fitting)))


def in_contexts(request: EncodedRequest, around: Surroundings) -> list[EncodedRequest]:
    """Return a request behind every prefix, by itself first; prefixes go behind a beginning-of-sequence token.

    >>> around = Surroundings([[], [7, 8]], [], bos=0, longest=5, pieces=[], prompts=[])
    >>> [r.prompt for r in in_contexts(EncodedRequest("1", [0, 1], [2]), around)]
    [[0, 1], [0, 7, 8, 1]]
    """
    front = int(request.prompt[0] == around.bos)
    room = len(request.ids) if around.longest is None else around.longest - len(request.ids)
    kept = [prefix if around.longest is None else prefix[: max(0, room)] for prefix in around.prefixes]
    return [
        EncodedRequest(request.id, [*request.prompt[:front], *prefix, *request.prompt[front:]], request.target)
        for prefix in kept
    ]


def contrasts(request: EncodedRequest, around: Surroundings, count: int) -> list[EncodedRequest]:
    """Return other prompts like a request's: prompts of other requests, then its own with other words in the middle.

    All prompts of a template end alike, so their keys at the last token are much alike. What tells this prompt from
    others is what its key has and these have not.

    >>> around = Surroundings([[]], [], bos=None, longest=None, pieces=[[9, 9, 9]], prompts=[[8]])
    >>> request = EncodedRequest("1", [1, 2, 3, 4, 5, 6, 7], [0])
    >>> [r.prompt for r in contrasts(request, around, count=2)]
    [[8], [1, 9, 9, 4, 5, 6, 7]]
    """
    front = int(request.prompt[0] == around.bos)
    body = request.prompt[front:]
    # At least one token has to be another, or it would be no other prompt.
    ending = min(_ENDING, len(body) - 1)
    start = min(_BEGINNING, (len(body) - ending) // 2)
    middle = len(body) - start - ending
    changed = [
        [*request.prompt[:front], *body[:start], *piece[:middle], *body[len(body) - ending :]]
        for piece in around.pieces
        if piece[:middle] != body[start : start + middle]
    ]
    other = [prompt for prompt in around.prompts if prompt != request.prompt]
    return [EncodedRequest(request.id, prompt, request.target[:1]) for prompt in [*other, *changed][:count]]


def shortest_window(lengths: Sequence[int], room: int) -> int:
    """Return the smallest window with which targets of some lengths take no more vectors than there is room for.

    Where there is too little for one vector each, that is what they take.

    >>> shortest_window([4, 6], room=10), shortest_window([4, 6], room=9), shortest_window([4, 6], room=0)
    (1, 2, 6)
    """
    longest = max(lengths, default=1)
    fitting = (size for size in range(1, longest) if sum(-(-length // size) for length in lengths) <= room)
    return next(fitting, longest)


def probes(tokenizer: PreTrainedTokenizerBase, background: Background, around: Surroundings) -> list[EncodedRequest]:
    """Return some requests that are not edited: the background's, else a piece of code with another piece's end."""
    known = [encode_request(tokenizer, request) for request in background.requests[:_PROBES]]
    fitting = [r for r in known if around.longest is None or len(r.ids) <= around.longest]
    pieces = [piece[:_PIECE] for piece in around.pieces if len(piece) > _TARGET][: _PROBES + 1]
    made = [EncodedRequest(f"probe {i}", one, other[-_TARGET:]) for i, (one, other) in enumerate(pairwise(pieces))]
    return fitting or made


def windows(request: EncodedRequest, length: int | None) -> list[EncodedRequest]:
    """Part a target into windows, each a request of its own behind all that comes before it (AnyEdit's idea).

    One vector says only so much; a long target gets one for every window, at the position that predicts its first
    token (Jiang et al. 2025, https://arxiv.org/abs/2502.05628).

    >>> [(w.prompt, w.target) for w in windows(EncodedRequest("1", [1], [2, 3, 4]), 2)]
    [([1], [2, 3]), ([1, 2, 3], [4])]
    """
    step = length or len(request.target)
    return [
        EncodedRequest(request.id, [*request.prompt, *request.target[:start]], request.target[start : start + step])
        for start in range(0, len(request.target), step)
    ]

"""Long answers as many short requests, as repair methods count failures: token by token."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from hotfix.data.edits import EditRequest, encode_request
from hotfix.data.encode import encode_text
from hotfix.errors import DataError

__all__ = ["parted"]

log = logging.getLogger(__name__)


def parted(requests: Sequence[EditRequest], tokenizer: PreTrainedTokenizerBase, size: int) -> list[EditRequest]:
    """Part targets into pieces of some tokens, each a request of its own behind all that comes before it.

    A piece's paraphrases have what comes before it behind them, too; pieces of one target are one group. Pieces that
    can't stand by themselves are left out: blank ones, and those whose text would be other tokens (parts of a letter).

    Args:
        requests: with whole targets.
        tokenizer: a fast tokenizer.
        size: of a piece, in tokens; the last may be shorter.

    >>> from hotfix.models.tiny import tiny_tokenizer
    >>> [(r.id, r.prompt, r.target) for r in parted([EditRequest("1", "a =", "bcd")], tiny_tokenizer(), 2)]
    [('1/0', 'a =', 'bc'), ('1/2', 'a =bc', 'd')]
    """
    found, left_out = list[EditRequest](), 0
    for request in requests:
        pieces = _pieces(request, tokenizer, size)
        found += [piece for piece in pieces if piece is not None]
        left_out += pieces.count(None)
    if left_out:
        log.warning("%d of %d pieces left out: their tokens can't stand alone", left_out, left_out + len(found))
    return found


def _pieces(request: EditRequest, tokenizer: PreTrainedTokenizerBase, size: int) -> list[EditRequest | None]:
    text = request.prompt + request.target
    ids, offsets = encode_text(tokenizer, text)
    begin = len(encode_request(tokenizer, request).prompt)
    found: list[EditRequest | None] = []
    for start in range(begin, len(ids), size):
        # Characters that the prompt shares with the target's first token are written with it.
        cut = offsets[start][0] if start > begin else len(request.prompt)
        end = offsets[min(start + size, len(ids)) - 1][1]
        written = request.target[: max(0, cut - len(request.prompt))]
        piece = replace(
            request,
            id=f"{request.id}/{start - begin}",
            prompt=request.prompt + written,
            target=text[cut:end],
            paraphrases=tuple(other + written for other in request.paraphrases),
            group=request.group or request.id,
            ending="",
        )
        found.append(piece if _stands(piece, tokenizer, ids[begin:], start - begin, size) else None)
    return found


def _stands(piece: EditRequest, tokenizer: PreTrainedTokenizerBase, target: list[int], at: int, size: int) -> bool:
    """Whether the piece's text is the target's tokens from a place on."""
    try:
        encoded = encode_request(tokenizer, piece)
    except DataError:
        return False
    return encoded.target == target[at : at + size] and encoded.prompt[len(encoded.prompt) - at :] == target[:at]

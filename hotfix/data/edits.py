"""What a model is to say instead: a prompt and its target, with what should follow from it and what should not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from hotfix.data.diff import common_prefix_length
from hotfix.data.encode import encode_text
from hotfix.errors import DataError

__all__ = ["EditRequest", "EncodedRequest", "check_requests", "encode_request"]


@dataclass(frozen=True, slots=True)
class EditRequest:
    """One edit: behind `prompt`, the model is to write `target`.

    Args:
        id: unique in its data set, stable between runs.
        prompt: text that the model is given.
        target: text that it is to write behind it, with the space or line break that it starts with.
        paraphrases: other prompts that ask for the same target; none of them is shown to an editor.
        neighbours: prompts nearby whose answers have to stay; none of them is shown to an editor.
        group: edits of one group are not independent; intervals cluster by it.
        source: `file:line`, for error messages.
        meta: the row's other columns.
        ending: what the model is to go on with behind the target, so that it knows where to stop: editors learn it
            with the target, measurements don't count it.
    """

    id: str
    prompt: str
    target: str
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()
    group: str = ""
    source: str = ""
    meta: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)
    ending: str = ""


class EncodedRequest(NamedTuple):
    """A request as token ids.

    Attributes:
        id: the request's id.
        prompt: ids that the model is given [P], at least one.
        target: ids that it is to write behind them [T], at least one.
    """

    id: str
    prompt: list[int]
    target: list[int]

    @property
    def ids(self) -> list[int]:
        """Prompt and target, [P + T]; the token at P + i is predicted at position P + i - 1."""
        return [*self.prompt, *self.target]


def encode_request(
    tokenizer: PreTrainedTokenizerBase, request: EditRequest, max_length: int | None = None, *, ending: bool = False
) -> EncodedRequest:
    """Tokenise prompt and target as one text, and part them where the prompt alone begins to be other tokens.

    Characters of the prompt that share a token with the target (indentation, mostly) are written with the target.

    Args:
        tokenizer: a fast tokenizer.
        request: what to encode.
        max_length: the model's context, in tokens; None doesn't look.
        ending: whether the request's ending belongs to the target.

    Raises:
        DataError: the target is empty, or longer than the context.

    >>> from hotfix.models.tiny import tiny_tokenizer
    >>> encode_request(tiny_tokenizer(), EditRequest("1", "a =", " b"))
    EncodedRequest(id='1', prompt=[64, 220, 28], target=[220, 65])
    >>> encode_request(tiny_tokenizer(), EditRequest("1", "a =", "b", ending="!"), ending=True)
    EncodedRequest(id='1', prompt=[64, 220, 28], target=[65, 0])
    """
    if not request.target.strip():
        raise DataError(
            f"request {request.id!r}: the target is empty", request.source or None, hint="say what is to be written"
        )
    target = request.target
    if ending and not target.endswith(request.ending):
        target += request.ending
    whole = encode_text(tokenizer, request.prompt + target).ids
    alone = encode_text(tokenizer, request.prompt).ids
    # An empty prompt is the beginning-of-sequence token, which a text of its own may not start with.
    if not request.prompt and whole[0] != alone[0]:
        whole = [*alone, *whole]
    split = max(1, min(common_prefix_length(alone, whole), len(whole) - 1))
    if max_length is not None and len(whole) > max_length:
        raise DataError(
            f"request {request.id!r} has {split} tokens of prompt and {len(whole) - split} of target, more than the "
            f"model's context of {max_length}",
            request.source or None,
            hint="shorten them",
        )
    return EncodedRequest(request.id, whole[:split], whole[split:])


def check_requests(requests: Sequence[EditRequest]) -> None:
    """Refuse requests that say the same twice or contradict each other.

    Raises:
        DataError: names both.

    >>> check_requests([EditRequest("1", "a", "b"), EditRequest("2", "a", "c")])
    Traceback (most recent call last):
    ...
    hotfix.errors.DataError: requests '1' and '2' want different targets behind the same prompt, 'b' and 'c'; keep one
    """
    first: dict[str, EditRequest] = {}
    ids: set[str] = set()
    for request in requests:
        if request.id in ids:
            raise DataError(
                f"two requests have the id {request.id!r}", request.source or None, hint="give each its own"
            )
        ids.add(request.id)
        other = first.setdefault(request.prompt, request)
        if other is request:
            continue
        both = f"requests {other.id!r} and {request.id!r}"
        if other.target == request.target:
            raise DataError(f"{both} are the same", request.source or None, hint="keep one")
        raise DataError(
            f"{both} want different targets behind the same prompt, {other.target!r:.40} and {request.target!r:.40}",
            request.source or None,
            hint="keep one",
        )

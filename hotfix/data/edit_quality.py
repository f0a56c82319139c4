"""What is wrong with a set of edits, found before anything is edited."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from hotfix.data.edits import EditRequest
from hotfix.data.finding import Finding, Severity
from hotfix.errors import DataError
from hotfix.types import SPLITS, Split

__all__ = ["request_findings"]

Requests = Mapping[Split, Sequence[EditRequest]]


def request_findings(requests: Requests, encode: Callable[[EditRequest], object] | None = None) -> list[Finding]:
    """Find edits that come twice or contradict each other, and prompts that stand where they must not.

    Args:
        requests: split -> its edits.
        encode: an edit to its tokens; refuses what can't be edited.

    >>> edits = [EditRequest("1", "a =", " 1", neighbours=("b =",)), EditRequest("2", "b =", " 2")]
    >>> [(f.kind, f.id) for f in request_findings({"train": edits, "validation": [], "test": []})]
    [('neighbour is edited', '1')]
    """
    found: list[Finding] = []
    for split in SPLITS:
        found += [*_repeats(requests[split]), *_prompts(requests[split])]
        found += _unusable(requests[split], encode) if encode is not None else ()
    return [*found, *_across(requests)]


def _repeats(requests: Sequence[EditRequest]) -> Iterator[Finding]:
    """Edits with an id, or a prompt, that another has."""
    ids: dict[str, EditRequest] = {}
    prompts: dict[str, EditRequest] = {}
    for request in requests:
        if ids.setdefault(request.id, request) is not request:
            other = ids[request.id].source
            yield _finding("error", "id used twice", request, f"so has {other}", "give each row its own")
        first = prompts.setdefault(request.prompt, request)
        if first is not request and first.target == request.target:
            yield _finding("error", "duplicate edit", request, f"the same as {first.id!r}", "remove one")
        elif first is not request:
            text = f"wants {request.target!r:.40} where {first.id!r} wants {first.target!r:.40}"
            yield _finding("error", "contradicting edits", request, text, "remove one")


def _prompts(requests: Sequence[EditRequest]) -> Iterator[Finding]:
    """Paraphrases that are no other prompt, or ask for something else, and neighbours whose answer has to change."""
    asked = _asked(requests)
    edited = {request.prompt: request for request in requests}
    for request in requests:
        for text in request.paraphrases:
            if text == request.prompt:
                yield _finding("error", "paraphrase is the prompt", request, f"{text!r:.60}", "write another, or none")
            other = asked[text]
            if other.target != request.target:
                said = f"{text!r:.60} asks for {other.id!r} as well, which wants {other.target!r:.40}"
                yield _finding("error", "contradicting edits", request, said, "tell their prompts apart")
        for text in request.neighbours:
            if text in asked:
                kind = "neighbour is edited" if text in edited else "neighbour is a paraphrase"
                said = f"{text!r:.60} is the neighbour whose answer is to stay, and asks for {asked[text].id!r}"
                yield _finding("error", kind, request, said, "remove it from the neighbours")


def _asked(requests: Iterable[EditRequest]) -> dict[str, EditRequest]:
    """Every prompt that asks for an edit -> the first such edit; prompts go before paraphrases."""
    requests = list(requests)
    found = {request.prompt: request for request in reversed(requests)}
    for request in requests:
        for text in request.paraphrases:
            found.setdefault(text, request)
    return found


def _unusable(requests: Sequence[EditRequest], encode: Callable[[EditRequest], object]) -> Iterator[Finding]:
    for request in requests:
        try:
            encode(request)
        except DataError as error:
            problem, _, hint = str(error).removeprefix(f"{request.source}: ").partition("; ")
            yield _finding("error", "edit can't be encoded", request, problem, hint)


def _across(requests: Requests) -> Iterator[Finding]:
    """Edits that an editor may learn from and that measure it as well; the same by any of their prompts."""
    learnt = _asked(requests["train"])
    for split in SPLITS[1:]:
        for request in requests[split]:
            shared = [text for text in (request.prompt, *request.paraphrases) if text in learnt]
            if shared:
                text = f"{shared[0]!r:.60} is in {split} and, in {learnt[shared[0]].id!r}, in train"
                hint = f"remove it from {split}, or name one file under both, which is then dealt"
                yield _finding("warning", "edit in two splits", request, text, hint)


def _finding(severity: Severity, kind: str, request: EditRequest, text: str, hint: str) -> Finding:
    return Finding(severity, kind, request.id, request.source, text, hint)

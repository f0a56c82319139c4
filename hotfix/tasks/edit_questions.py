"""What a model is asked about an edit: behind which prompts, for which answers, and how much it may write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

from transformers import PreTrainedTokenizerBase

from hotfix.data.edits import EditRequest, encode_request
from hotfix.data.encode import encode_text
from hotfix.tasks.edit_metrics import SPECIFICITY
from hotfix.tasks.edit_scoring import line_count
from hotfix.tasks.protocol import Protocol

__all__ = ["Asked", "Questions"]

_TAIL = 200


class Asked(NamedTuple):
    """What the model is asked for one request.

    Attributes:
        request: whose edit it is measured with, where each has its own.
        prompts: token ids of each.
        behind: text that each prompt ends with, for people.
        settings: of each greedy continuation: its greatest number of tokens, and of lines, 0 for any.
        contexts: token ids in front of each target.
        targets: token ids of each answer; none where it is the base's own.
        references: text of each answer.
    """

    request: str
    prompts: list[list[int]]
    behind: list[str]
    settings: list[tuple[int, int]]
    contexts: list[list[int]]
    targets: list[list[int]]
    references: list[str]


@dataclass(frozen=True)
class Questions:
    """Makes questions of requests and of unrelated code.

    Attributes:
        tokenizer: the model's.
        protocol: whose prompts, answers and lengths; see `hotfix.tasks.EditQuality`.
        max_new_tokens: of an answer; a longer one has 8 more than its own.
        kept_tokens: of a continuation that should stay the base's own.
        code_prompt: tokens of unrelated code that are the prompt.
    """

    tokenizer: PreTrainedTokenizerBase
    protocol: Protocol
    max_new_tokens: int
    kept_tokens: int
    code_prompt: int

    def request(self, name: str, request: EditRequest, texts: Sequence[str]) -> Asked:
        """Ask for the request's answer behind some texts; in the slice of neighbours, for the base's own."""
        if name == SPECIFICITY:
            return self._kept(request, [self._ids(text) for text in texts], [text[-_TAIL:] for text in texts])
        encoded = [encode_request(self.tokenizer, replace(request, prompt=text)) for text in texts]
        prompts, targets = [e.prompt for e in encoded], [e.target for e in encoded]
        behind = [text[-_TAIL:] for text in texts]
        if self.protocol == "paper":
            # Joined by one space, which is no part of the reference.
            answer = request.target.removeprefix(" ")
            length = len(encode_text(self.tokenizer, answer, add_special_tokens=False).ids)
            alone, count = [self._ids(text) for text in texts], len(texts)
            return Asked(request.id, alone, behind, [(length, 0)] * count, prompts, targets, [answer] * count)
        references = [self._decoded(target) for target in targets]
        settings = [
            (self.max_new_tokens if len(target) < self.max_new_tokens else len(target) + 8, line_count(text))
            for target, text in zip(targets, references, strict=True)
        ]
        return Asked(request.id, prompts, behind, settings, prompts, targets, references)

    def code(self, request: EditRequest, text: str) -> Asked:
        """Ask, with a request's edit on, how unrelated code goes on."""
        ids = encode_text(self.tokenizer, text).ids[: self.code_prompt]
        return self._kept(request, [ids], [self._decoded(ids)])

    def _kept(self, request: EditRequest, prompts: list[list[int]], behind: list[str]) -> Asked:
        return Asked(request.id, prompts, behind, [(self.kept_tokens, 0)] * len(prompts), prompts, [], [])

    def _ids(self, text: str) -> list[int]:
        return encode_text(self.tokenizer, text, add_special_tokens=self.protocol != "paper").ids

    def _decoded(self, ids: Sequence[int]) -> str:
        return cast("str", self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

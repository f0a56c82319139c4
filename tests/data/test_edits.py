"""Where a prompt ends and its target begins, as tokens, and which requests can't stand together."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from hotfix.data.edits import EditRequest, EncodedRequest, check_requests, encode_request
from hotfix.errors import DataError
from hotfix.models.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def ids(text: str, tokenizer: PreTrainedTokenizerBase = TOKENIZER) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def test_prompt_and_target_are_the_tokens_of_the_text() -> None:
    found = encode_request(TOKENIZER, EditRequest("1", "a = ", "b"))
    assert found == EncodedRequest("1", ids("a = "), ids("b"))
    assert found.ids == ids("a = b")


def test_an_empty_prompt_is_the_start_token() -> None:
    assert encode_request(TOKENIZER, EditRequest("1", "", "b")) == EncodedRequest("1", [256], ids("b"))


def test_a_prompt_keeps_one_token_at_least() -> None:
    found = encode_request(TOKENIZER, EditRequest("1", "a", "b"))
    assert len(found.prompt) == len(found.target) == 1


@pytest.mark.parametrize(("room", "fits"), [(4, True), (3, False)])
def test_what_exceeds_the_context_is_refused(room: int, fits: bool) -> None:
    request = EditRequest("1", "ab", "cd", source="edits.jsonl:3")
    if fits:
        assert len(encode_request(TOKENIZER, request, room).ids) == 4
        return
    with pytest.raises(DataError, match=r"edits.jsonl:3: .*2 tokens of prompt and 2 of target, more than .* of 3"):
        encode_request(TOKENIZER, request, room)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (EditRequest("1", "b", "c"), "two requests have the id '1'"),
        (EditRequest("2", "a", "b"), "requests '1' and '2' are the same; keep one"),
        (EditRequest("2", "a", "c"), "requests '1' and '2' want different targets behind the same prompt, 'b' and 'c'"),
    ],
)
def test_requests_that_cannot_stand_together(second: EditRequest, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_requests([EditRequest("1", "a", "b"), second])


def test_the_same_target_behind_different_prompts_is_fine() -> None:
    check_requests([EditRequest("1", "a", "b"), EditRequest("2", "c", "b")])

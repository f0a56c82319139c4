"""Failures are judged token by token on the very ids of the request, by raw logits, strictly."""

from __future__ import annotations

import pytest
import torch
from facts import TOKENIZER, known_facts, request, wrong_answers
from torch import nn

from hotfix.data.edits import EncodedRequest, encode_request
from hotfix.editors import SGD
from hotfix.editors.repair.failures import Failure, check_targets, detect, judged
from hotfix.errors import DataError
from hotfix.models.tiny import tiny_model


def one_by_one(model: nn.Module, requests: list[EncodedRequest]) -> list[Failure]:
    """The definition: one pass a prefix."""
    found = []
    for index, each in enumerate(requests):
        for position, token in enumerate(each.target):
            prefix = each.prompt + each.target[:position]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prefix])).logits[0, -1].double()
            own = float(logits[token])
            logits[token] = -torch.inf
            if own <= logits.max():
                other = int(logits.argmax())
                found.append(Failure(index, position, prefix, token, other, own - float(logits.max())))
    return found


def test_one_batch_finds_what_one_prefix_after_the_other_does() -> None:
    model = tiny_model()
    texts = [("def digest(data): return ", "sha256(data)"), ("x =", " 42"), ("reverse:", " xs.reverse()")]
    requests = [encode_request(TOKENIZER, request(*text)) for text in texts]
    found, expected = detect(model, requests), one_by_one(model, requests)
    assert len(expected) > 10
    assert [f[:5] for f in found] == [f[:5] for f in expected]
    assert [f.margin for f in found] == pytest.approx([f.margin for f in expected], abs=1e-5)


def test_what_greedy_decoding_writes_is_no_failure() -> None:
    facts = known_facts()
    known = [request(*pair) for pair in zip(facts.prompts, facts.answers, strict=True)]
    assert detect(facts.model, [encode_request(TOKENIZER, each) for each in known]) == []
    wrong = wrong_answers(facts, 3, length=3)
    assert {f.request for f in detect(facts.model, [encode_request(TOKENIZER, each) for each in wrong])} == {0, 1, 2}


def test_padding_of_a_longer_request_changes_nothing() -> None:
    model = tiny_model()
    short = EncodedRequest("short", [5, 6], [7])
    long = EncodedRequest("long", list(range(60)), [7, 8])
    alone, together = detect(model, [short]), detect(model, [long, short])
    own = [f for f in together if f.request == 1]
    assert [f[1:5] for f in own] == [f[1:5] for f in alone]
    assert own[0].margin == pytest.approx(alone[0].margin, abs=1e-5)


def test_a_tie_is_a_failure() -> None:
    judgement = judged(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([0]))
    assert float(judgement.margin[0]) == 0
    assert int(judgement.other[0]) == 1
    model = tiny_model()
    nn.init.zeros_(model.lm_head.weight)
    assert len(detect(model, [EncodedRequest("1", [5], [6])])) == 1


def test_rows_of_the_head_without_a_token_are_not_predicted() -> None:
    model = tiny_model()
    request = EncodedRequest("1", [5, 6], [7])
    states = model.model(input_ids=torch.tensor([request.prompt])).last_hidden_state[0, -1]
    with torch.no_grad():
        model.lm_head.weight[256] = 100 * states
    assert detect(model, [request])[0].predicted == 256
    assert detect(model, [request], vocabulary=256)[0].predicted != 256


def test_a_target_that_the_tokenizer_does_not_have_is_refused() -> None:
    with pytest.raises(DataError, match="request '1': target token 300 is none of the tokenizer's 257"):
        check_targets([EncodedRequest("1", [5], [6, 300])], 257)


def test_contradictory_targets_are_refused_by_name() -> None:
    requests = [EncodedRequest("a", [5], [6, 7]), EncodedRequest("b", [5, 6], [8])]
    with pytest.raises(DataError, match="'a' and 'b' want different tokens, 7 and 8, behind the same 2"):
        check_targets(requests, 257)
    check_targets([requests[0], EncodedRequest("b", [5, 6], [7, 9])], 257)
    # The editor itself says so, whatever the texts look like.
    with pytest.raises(DataError, match="want different tokens"):
        SGD().compute(tiny_model(), TOKENIZER, [request("a", "bc"), request("ab", "d")])

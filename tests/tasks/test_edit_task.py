"""The edit task: right answers count, other words count, what was to stay is compared with the base's own answers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from hotfix.data import HotfixDataModule
from hotfix.data.edits import EditRequest, encode_request
from hotfix.errors import ConfigError
from hotfix.generation import Completion, greedy
from hotfix.metrics import Record
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.tasks import EditQuality, Slice, Subject
from hotfix.tasks.protocol import Protocol

TOKENIZER = tiny_tokenizer()
REQUESTS = [
    EditRequest("1", "reverse a list:", " xs[::-1]", ("turn a list round:", "flip:"), ("sort:", "copy it:"), "g"),
    EditRequest("2", "delete x:", " del x", ("remove x:",), ("keep x:", "add x:", "x:", "y:", "z:"), "g"),
    EditRequest("3", "two lines:", "\n    a = 1\n    return a\n", (), ()),
]
Write = Callable[[str], str]


def subject(model: nn.Module | None = None, **changes: Any) -> Subject:
    return replace(Subject(model or tiny_model(), TOKENIZER, nullcontext, 0, lambda done: None), **changes)


@pytest.fixture
def edited(data: HotfixDataModule) -> HotfixDataModule:
    return data.editing(REQUESTS)


def writing(monkeypatch: pytest.MonkeyPatch, write: Write, finished: bool = True) -> list[int]:
    """Let the model write what is wanted behind each prompt; returns the lengths that it was allowed."""
    allowed: list[int] = []

    def written(
        model: object, tokenizer: object, prompts: Sequence[Sequence[int]], tokens: int, **_: object
    ) -> list[Completion]:
        allowed.extend([tokens] * len(prompts))
        texts = [write(TOKENIZER.decode(prompt)) for prompt in prompts]
        return [Completion(TOKENIZER(text)["input_ids"][:tokens] if text else [], -1.0, finished) for text in texts]

    monkeypatch.setattr("hotfix.tasks.edit_scoring.greedy", written)
    return allowed


def part(task: EditQuality, data: HotfixDataModule, name: str) -> Slice:
    return next(found for found in task.slices(data, "test") if found.name == name)


def observed(task: EditQuality, data: HotfixDataModule, name: str, who: Subject, base: Any = None) -> list[Record]:
    return task.observe(who, name, list(enumerate(part(task, data, name).examples)), base)


def values(task: EditQuality, data: HotfixDataModule, name: str, records: Sequence[Record]) -> dict[str, float]:
    found = {}
    for key, metric in part(task, data, name).metrics.items():
        for place, record in enumerate(records):
            metric.update(place, json.loads(json.dumps(record, allow_nan=False)))
        found[key] = metric.compute().item()
    return found


def behind(prompt: str) -> str:
    """The right answer to every prompt of every request."""
    return next(r.target for r in REQUESTS if prompt in (r.prompt, *r.paraphrases))


def changed(seed: int = 1, scale: float = 1.0) -> LlamaForCausalLM:
    model = tiny_model()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        weight = model.model.layers[1].mlp.down_proj.weight
        weight += scale * torch.randn(weight.shape, generator=generator)
    return model


def test_slices_are_of_what_is_edited(data: HotfixDataModule, edited: HotfixDataModule) -> None:
    task = EditQuality(unrelated_examples=2)
    ids = {found.name: [e.id for e in found.examples] for found in task.slices(edited, "test")}
    assert list(ids) == ["efficacy", "generalisation", "specificity", "unrelated", "fluency"]
    assert ids["efficacy"] == ids["fluency"] == ["1", "2", "3"]
    assert ids["generalisation"] == ids["specificity"] == ["1", "2"]
    assert [e.group for e in part(task, edited, "efficacy").examples] == ["g", "g", "3"]
    # A run that trains has its training pairs; another split where it is named.
    assert {e.id.split("/")[0] for e in part(task, data, "efficacy").examples} == {"train"}
    named = EditQuality(edits="validation", unrelated_examples=0)
    assert {e.id.split("/")[0] for e in part(named, edited, "efficacy").examples} == {"validation"}
    assert len(part(EditQuality(examples=2), edited, "efficacy").examples) == 2


@pytest.mark.parametrize("name", ["efficacy", "generalisation"])
def test_right_answers_count(edited: HotfixDataModule, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    task = EditQuality()
    # What follows in later lines is no part of the answer.
    writing(monkeypatch, lambda prompt: behind(prompt).rstrip("\n") + "\nand more\n")
    found = values(task, edited, name, observed(task, edited, name, subject()))
    assert found["em"] == found["bleu"] == found["rouge_l"] == 1
    for wrong in (lambda p: "", lambda p: behind(p).rstrip("\n") + "x\n", lambda p: "y" + behind(p)):
        writing(monkeypatch, wrong)
        assert values(task, edited, name, observed(task, edited, name, subject()))["em"] == 0


def test_half_of_the_paraphrases_is_a_half(edited: HotfixDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    task = EditQuality()
    writing(monkeypatch, lambda prompt: behind(prompt) if prompt != "flip:" else "no")
    found = observed(task, edited, "generalisation", subject())
    assert values(task, edited, "generalisation", found)["em"] == (0.5 + 1) / 2


def test_a_right_beginning_counts_in_the_paper_only(edited: HotfixDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    write = lambda prompt: behind(prompt).rstrip("\n") + " + 1 # wrong\n"  # noqa: E731
    allowed = writing(monkeypatch, write, finished=False)
    paper = EditQuality(protocol="paper")
    records = observed(paper, edited, "efficacy", subject())
    # As many tokens as the answer has: bytes of this tokenizer, without the space that joins it to the prompt.
    assert allowed == [len(r.target.removeprefix(" ")) for r in sorted(REQUESTS, key=lambda r: len(r.target))]
    # The first answer's last byte has to make room for the space; the third begins with no space, and ends with a
    # line break that the written text loses.
    assert records[0]["written"] == [" xs[::-1"]
    assert values(paper, edited, "efficacy", records)["em"] == 0
    writing(monkeypatch, lambda prompt: write(prompt).removeprefix(" "), finished=False)
    found = observed(paper, edited, "efficacy", subject())
    assert values(paper, edited, "efficacy", found)["em"] == pytest.approx(2 / 3)
    writing(monkeypatch, write, finished=False)
    own = EditQuality()
    assert values(own, edited, "efficacy", observed(own, edited, "efficacy", subject()))["em"] == 0


def test_the_end_shows_in_the_paper_s_text_only(edited: HotfixDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    writing(monkeypatch, lambda prompt: "ab" if prompt == "sort:" else "abcd")
    for protocol, first in (("paper", "ab<|end|><|end|><|end|>"), ("hotfix", "ab")):
        task = EditQuality(protocol=protocol)  # type: ignore[arg-type]
        [record, _] = observed(task, edited, "specificity", subject())
        assert record["written"][0] == first


def test_one_neighbour_of_five(edited: HotfixDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for protocol in ("hotfix", "paper"):
        task = EditQuality(protocol=protocol)  # type: ignore[arg-type]
        writing(monkeypatch, lambda prompt: f"about {prompt}")
        base = observed(task, edited, "specificity", subject())
        assert values(task, edited, "specificity", base)["em"] == 1
        writing(monkeypatch, lambda prompt: f"about {prompt}" if prompt != "y:" else "else")
        after = observed(task, edited, "specificity", subject(changed(), reference=nullcontext), base)
        assert after[1]["reference"] == base[1]["written"]
        found[protocol] = values(task, edited, "specificity", after)
    assert found["hotfix"]["em"] == pytest.approx((1 + 4 / 5) / 2)
    assert found["hotfix"]["em_all"] == found["paper"]["em"] == 0.5


def test_teacher_forced_numbers_are_the_model_s(edited: HotfixDataModule) -> None:
    base, model = tiny_model(), changed(scale=0.3)

    @contextmanager
    def reference() -> Iterator[None]:
        weights = model.model.layers[1].mlp.down_proj.weight
        kept = weights.data
        weights.data = base.model.layers[1].mlp.down_proj.weight.data
        yield
        weights.data = kept

    task = EditQuality()
    before = observed(task, edited, "generalisation", subject())
    after = observed(task, edited, "generalisation", subject(model, reference=reference), before)
    request = replace(REQUESTS[0], prompt=REQUESTS[0].paraphrases[1])
    _, prompt, target = encode_request(TOKENIZER, request)
    logits = {}
    for name, one in (("base", base), ("model", model)):
        with torch.no_grad():
            whole = one(input_ids=torch.tensor([[*prompt, *target]])).logits[0]
        logits[name] = whole[len(prompt) - 1 : -1].double().log_softmax(-1)
    own = logits["model"]
    hits = (own.argmax(-1) == torch.tensor(target)).tolist()
    assert after[0]["hits"][-len(target) :] == hits
    kl = (logits["base"].exp() * (logits["base"] - own)).sum(-1).mean().item()
    assert after[0]["kl_each"][1] == pytest.approx(kl, rel=1e-4)
    assert kl > 1e-3
    other = encode_request(TOKENIZER, replace(request, prompt=REQUESTS[0].paraphrases[0]))
    with torch.no_grad():
        others = model(input_ids=torch.tensor([other.ids])).logits[0, len(other.prompt) - 1 : -1].log_softmax(-1)
    each = [own[range(len(target)), target].sum().item(), others[range(len(target)), other.target].sum().item()]
    assert after[0]["log_prob"] == pytest.approx(sum(each) / 2, rel=1e-5)
    assert before[0]["kl"] == 0


@pytest.mark.parametrize("name", ["efficacy", "generalisation", "specificity", "unrelated"])
@pytest.mark.parametrize("protocol", ["hotfix", "paper"])
def test_what_the_likeliest_tokens_say_is_what_decoding_writes(
    data: HotfixDataModule, monkeypatch: pytest.MonkeyPatch, name: str, protocol: Protocol
) -> None:
    # Answers that the model gives itself, to their end, in part, and not at all.
    model = tiny_model()
    own = [
        TOKENIZER.decode(greedy(model, TOKENIZER, [TOKENIZER(r.prompt)["input_ids"]], 9)[0].token_ids) for r in REQUESTS
    ]
    targets = [own[0], own[1][:4] + "xyz", " x"]
    edited = data.editing([replace(r, target=t) for r, t in zip(REQUESTS, targets, strict=True)])
    task = EditQuality(unrelated_examples=6, protocol=protocol)
    for other in (tiny_model(), changed(scale=0.02), changed(scale=3.0)):
        base = observed(task, edited, name, subject())
        after = observed(task, edited, name, subject(other), base)
        with monkeypatch.context() as patched:
            patched.setattr("hotfix.tasks.edit_scoring.greedy", lambda *a, begun=(), **k: greedy(*a, **k))
            fresh = observed(task, edited, name, subject(other), base)
        assert after == fresh


def test_each_request_is_measured_with_its_own_edit(edited: HotfixDataModule) -> None:
    task = EditQuality(unrelated_examples=4)
    model, worn = tiny_model(), list[str]()
    patched = {"1": 0.5, "2": 1.0, "3": 2.0}
    weight = model.model.layers[1].mlp.down_proj.weight
    plain = weight.data

    @contextmanager
    def alone(request: str) -> Iterator[None]:
        worn.append(request)
        weight.data = plain * patched[request]
        yield
        weight.data = plain

    for name in ("efficacy", "specificity", "unrelated", "fluency"):
        worn.clear()
        base = observed(task, edited, name, subject())
        found = observed(task, edited, name, subject(model, alone=alone), base)
        requests = [e.payload.request for e in part(task, edited, name).examples]
        # Once a request, however many prompts it has.
        assert worn == list(dict.fromkeys(requests))
        for place, request in enumerate(requests):
            weight.data = plain * patched[request]
            expected = observed(task, edited, name, subject(model), base)[place]
            weight.data = plain
            assert found[place]["written"] == expected["written"]
            if "log_prob" in expected:
                assert found[place]["log_prob"] == pytest.approx(expected["log_prob"], rel=1e-4)
    assert not torch.equal(plain, plain * 2)


def test_wrong_tokens_that_are_solved_and_right_ones_that_are_lost(data: HotfixDataModule) -> None:
    """Against each token's argmax on its own; one answer is what the base writes, the other what the model does."""
    model, task, name = changed(scale=0.5), EditQuality(unrelated_examples=0), "efficacy"
    prompts = [TOKENIZER(prompt)["input_ids"] for prompt in ("sort:", "copy it:")]
    writers = zip((tiny_model(), model), prompts, strict=True)
    texts = [TOKENIZER.decode(greedy(who, TOKENIZER, [ids], 12)[0].token_ids) for who, ids in writers]
    edited = data.editing([EditRequest("1", "sort:", texts[0]), EditRequest("2", "copy it:", texts[1])])
    base = observed(task, edited, name, subject())
    found = observed(task, edited, name, subject(model), base)
    every: dict[str, list[bool]] = {"solved": [], "lost": []}
    for example, before, after in zip(part(task, edited, name).examples, base, found, strict=True):
        [context], [target] = example.payload.contexts, example.payload.targets
        expected: dict[str, list[bool]] = {"solved": [], "lost": []}
        for i, token in enumerate(target):
            ids = torch.tensor([[*context, *target[:i]]])
            was, now = (m(ids).logits[0, -1].argmax().item() == token for m in (tiny_model(), model))
            expected["lost" if was else "solved"].append(now != was)
        assert {key: after[key] for key in expected} == expected
        assert not any(before["solved"] + before["lost"])
        every = {key: [*own, *expected[key]] for key, own in every.items()}
    # Of each kind some did and some didn't, so that no constant passes.
    assert all(set(own) == {False, True} for own in every.values()), every


def test_unrelated_code_is_dealt_to_the_requests(edited: HotfixDataModule) -> None:
    examples = part(EditQuality(unrelated_examples=5), edited, "unrelated").examples
    assert [e.payload.request for e in examples] == ["1", "2", "3", "1", "2"]


def test_a_broken_model_is_measured_not_a_crash(edited: HotfixDataModule) -> None:
    model = tiny_model()
    model.lm_head.weight.data[:] = math.nan
    for protocol in ("hotfix", "paper"):
        task = EditQuality(protocol=protocol, unrelated_examples=0)  # type: ignore[arg-type]
        for name in ("efficacy", "specificity", "fluency"):
            base = observed(task, edited, name, subject())
            found = values(task, edited, name, observed(task, edited, name, subject(model), base))
            assert found["broken_rate"] == 1
            assert found.get("em", 0) == found.get("token_accuracy", 0) == 0
            if name == "fluency":
                assert math.isnan(found["entropy"]) if protocol == "paper" else found["entropy"] == 0


def test_fluency_has_a_seed_for_each_prompt(edited: HotfixDataModule) -> None:
    task = EditQuality(fluency_tokens=12)
    whole = observed(task, edited, "fluency", subject())
    examples = part(task, edited, "fluency").examples
    alone = [task.observe(subject(), "fluency", [(i, examples[i])], None)[0] for i in (2, 0, 1)]
    assert [alone[1], alone[2], alone[0]] == whole
    assert [len(record["written"]) for record in whole] == [2, 2, 1]
    assert max(len(text) for record in whole for text in record["tokens"]) == 12


def test_a_longer_answer_has_room(data: HotfixDataModule) -> None:
    long = EditRequest("1", "a:", " " + "b" * 99)
    [example] = part(EditQuality(max_new_tokens=20), data.editing([long]), "efficacy").examples
    assert example.payload.settings == [(108, 1)]


def test_the_paper_fixes_its_lengths() -> None:
    with pytest.raises(ConfigError, match="specificity_tokens is 8, but protocol: paper fixes it at 16"):
        EditQuality(protocol="paper", specificity_tokens=8)
    with pytest.raises(ConfigError, match="protocol is 'else'"):
        EditQuality(protocol="else")  # type: ignore[arg-type]

"""Stubs of the unseen split, addresses masked in every record, and placeholders that are no leak."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest

from hotfix.data import PairFiles
from hotfix.errors import ConfigError
from hotfix.generation import SamplingConfig
from hotfix.generation.stopping import Completion
from hotfix.tasks import EmailLeak, Subject
from hotfix.tasks.base import Example
from hotfix.tasks.email_leak import mask


def task(**more: Any) -> EmailLeak:
    return EmailLeak(
        **{"num_samples": 2, "max_new_tokens": 4, "unprompted_examples": 3, "unprompted_tokens": 4, **more}
    )


def digest(address: str) -> str:
    return f"<address {sha256(address.encode()).hexdigest()[:8]}>"


def written(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    def sample(_model: object, tokenizer: Any, prompts: list[object], config: Any, **_: object) -> Any:
        ids = tokenizer(text)["input_ids"]
        return [[Completion(ids, 0.0, True)] * config.num_samples for _ in prompts]

    monkeypatch.setattr("hotfix.tasks.email_leak.sample", sample)


def test_slices_hold_the_redactions_of_the_split_and_nothing(data: PairFiles) -> None:
    for split, count in (("validation", 3), ("test", 5)):
        prompted, unprompted = task().slices(data, split)  # type: ignore[arg-type]
        assert [e.id for e in prompted.examples] == [f"{split}/mail/{i}" for i in range(count)]
        assert {e.group for e in prompted.examples} == {"mail"}
        assert [e.id for e in unprompted.examples] == ["unprompted/0", "unprompted/1", "unprompted/2"]
        assert {tuple(e.payload[0]) for e in unprompted.examples} == {(256,)}
        assert [part.name for part in (prompted, unprompted)] == ["prompted", "unprompted"]


def test_stubs_are_limited_evenly_and_either_slice_can_be_left_out(data: PairFiles) -> None:
    [only] = task(prompted_examples=2, unprompted_examples=0).slices(data, "test")
    assert [e.id for e in only.examples] == ["test/mail/0", "test/mail/2"]
    [other] = task(prompted_examples=0).slices(data, "test")
    assert other.name == "unprompted"


def test_the_prompt_is_the_stub_without_the_address(data: PairFiles) -> None:
    prompted = task().slices(data, "test")[0]
    texts = [data.tokenizer.decode(e.payload[0]) for e in prompted.examples]
    # Both sides begin with a space, but the prompt comes from the prefix alone.
    assert texts == [f"# write {i} to" for i in range(5)]


def test_records_of_the_tiny_model(data: PairFiles, subject: Subject) -> None:
    for part in task().slices(data, "test"):
        records = task().observe(subject, part.name, list(enumerate(part.examples)), None)
        assert json.loads(json.dumps(records)) == records
        samples = 2 if part.name == "prompted" else 1
        for record in records:
            assert list(record) == ["prompt", "completions", "leaked"]
            assert record["leaked"] == [False] * samples
            assert len(record["completions"]) == samples


def test_a_leak_is_counted_and_masked(data: PairFiles, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    written(monkeypatch, " Ann.Lee@corp.io, x@example.com, Ann.Lee@corp.io")
    for part in task().slices(data, "test"):
        for record in task().observe(subject, part.name, list(enumerate(part.examples)), None):
            assert set(record["leaked"]) == {True}
            mark = digest("ann.lee@corp.io")
            assert set(record["completions"]) == {f" {mark}, x@example.com, {mark}"}
            assert "Ann" not in json.dumps(record)


@pytest.mark.parametrize("text", ["", " user@example.com", " <EMAIL>", " ann@corp", " git@host.com:a/b", "a @ b"])
def test_what_is_no_leak(data: PairFiles, subject: Subject, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    written(monkeypatch, text)
    prompted = task().slices(data, "test")[0]
    for record in task().observe(subject, "prompted", list(enumerate(prompted.examples)), None):
        assert (set(record["leaked"]), set(record["completions"])) == ({False}, {text})


def test_an_address_that_begins_in_the_stub_leaks_and_is_masked_whole(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(monkeypatch, "lee@corp.io>\n")
    example = Example("a", "a", ([1], "Author: Ann <ann."), "")
    [record] = task().observe(subject, "prompted", [(0, example)], None)
    assert record["leaked"] == [True, True]
    assert "corp.io" not in json.dumps(record)


def test_masking_is_by_the_address_whatever_its_case() -> None:
    assert mask("A@b.io a@b.io", ["A@b.io", "a@b.io"]) == f"{digest('a@b.io')} {digest('a@b.io')}"
    assert mask("no address", []) == "no address"
    assert mask("a.b@c.io axb@c.io", ["a.b@c.io"]) == f"{digest('a.b@c.io')} axb@c.io"


def test_the_paper_s_settings_are_pinned() -> None:
    paper = EmailLeak(protocol="paper")
    assert paper.unprompted == SamplingConfig(1, 1.0, 1.0, top_k=20, max_new_tokens=511, batch_size=32)
    assert paper.unprompted_examples == 1000
    assert paper.prompted == EmailLeak().prompted == SamplingConfig(5, 1.0, 0.95, 0, 24, 32)
    assert EmailLeak().unprompted == SamplingConfig(1, 1.0, 0.95, 0, 128, 32)
    assert EmailLeak(top_k=7, top_p=1.0).prompted.top_k == EmailLeak(top_k=7).unprompted.top_k == 7
    assert EmailLeak(protocol="paper", unprompted_examples=3).unprompted_examples == 3
    with pytest.raises(ConfigError, match="tokens is 128, but protocol: paper fixes it at 511"):
        EmailLeak(protocol="paper", unprompted_tokens=128)


def test_the_paper_counts_addresses_not_completions(
    data: PairFiles, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(monkeypatch, " Ann.Lee@corp.io, x@example.com, Ann.Lee@corp.io")
    for part in task(protocol="paper", unprompted_tokens=None).slices(data, "test"):
        items = list(enumerate(part.examples))
        [record, *_] = task(protocol="paper", unprompted_tokens=None).observe(subject, part.name, items, None)
        part.metrics["leaks_per_completion"].update(0, record)
        part.metrics["leak_rate"].update(0, record)
        assert part.metrics["leaks_per_completion"].compute() == 2
        assert part.metrics["leak_rate"].compute() == 1
    assert all("leaks_per_completion" not in part.metrics for part in task().slices(data, "test"))

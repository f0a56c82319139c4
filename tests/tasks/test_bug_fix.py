"""What the bug-fix task measures on which examples, and the records that it writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from hotfix.adapters import LoRA
from hotfix.data import CodePair, PairFiles
from hotfix.errors import ConfigError
from hotfix.generation import SamplingConfig, greedy
from hotfix.generation.stopping import Completion
from hotfix.metrics import RecordRate
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.spacing import evenly
from hotfix.tasks import BugFix, Slice, Subject
from hotfix.tasks.bug_fix import is_redaction
from hotfix.tasks.scoring import pair_log_probs, text_drift

FIELDS = [
    "prompt", "fixed", "buggy", "completions", "verdicts", "p_fixed", "p_buggy", "p_fixed_at_edit", "p_buggy_at_edit",
    "prefers_fixed",
    "token_log_probs",
]  # fmt: skip


def task(**more: Any) -> BugFix:
    small = {"num_samples": 3, "max_new_tokens": 5, "specificity_examples": 4, "specificity_prompt": 20}
    return BugFix(**{**small, "specificity_tokens": 4, **more})


def by_name(found: list[Slice]) -> dict[str, Slice]:
    return {part.name: part for part in found}


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        (CodePair("a", "mail ", "ann@corp.io", "<EMAIL>"), True),
        (CodePair("a", "mail ", "user@example.com", "<EMAIL>"), True),
        (CodePair("a", "mail ann@", "corp.io", "<EMAIL>"), True),
        (CodePair("a", "mail ", "ann@corp.io", "bob@corp.io"), False),
        (CodePair("a", "mail ", "<EMAIL>", "ann@corp.io"), False),
        (CodePair("a", "x = ", "a @ b", "a * b"), False),
        (CodePair("a", "cc = 'ann@corp.io'; x = ", "1", "2"), False),
        (CodePair("a", "cc = 'ann@corp.io'" + " " * 64, "1", "2"), False),
    ],
)
def test_a_redaction_hides_an_address(pair: CodePair, expected: bool) -> None:
    assert is_redaction(pair) == expected


@pytest.mark.parametrize("count", range(1, 30))
@pytest.mark.parametrize("limit", [1, 3, 10])
def test_limits_are_evenly_spaced(count: int, limit: int) -> None:
    items = cast("list[CodePair]", list(range(count)))
    found = cast("list[int]", evenly(items, limit))
    assert len(found) == min(count, limit)
    assert found[0] == 0
    gaps = {after - before for before, after in zip(found, [*found[1:], count], strict=True)}
    assert max(gaps) - min(gaps) <= 1
    assert evenly(items, None) == items


def test_slices_are_the_trained_the_unseen_and_the_unrelated(data: PairFiles) -> None:
    for split, count in (("validation", 3), ("test", 5)):
        found = by_name(task().slices(data, split))  # type: ignore[arg-type]
        assert list(found) == ["efficacy", "generalisation", "specificity"]
        assert [e.id for e in found["efficacy"].examples] == [f"train/{i}" for i in range(7)]
        assert [e.id for e in found["generalisation"].examples] == [f"{split}/{i}" for i in range(count)]
        assert {e.group for e in found["efficacy"].examples} == {"rule0", "rule1"}
        assert [part.group_name for part in found.values()] == ["rule", "rule", "module"]


def test_examples_are_limited_evenly(data: PairFiles) -> None:
    found = by_name(task(efficacy_examples=3, generalisation_examples=2).slices(data, "test"))
    assert [e.id for e in found["efficacy"].examples] == ["train/0", "train/2", "train/4"]
    assert [e.id for e in found["generalisation"].examples] == ["test/0", "test/2"]


def test_unrelated_prompts_are_as_long_as_asked_and_grouped_by_module(data: PairFiles) -> None:
    examples = by_name(task().slices(data, "test"))["specificity"].examples
    # Texts of one or two lines are too short; f0 and f1 are.
    assert [e.id for e in examples] == ["m1:f2", "m1:f3", "m2:f4", "m2:f5"]
    assert [e.group for e in examples] == ["m1", "m1", "m2", "m2"]
    assert {len(e.payload) for e in examples} == {20}


def test_metrics_are_sized_and_the_users_own_serve_both_slices(data: PairFiles) -> None:
    found = by_name(task(metrics={"mine": RecordRate("prefers_fixed")}).slices(data, "test"))
    assert len(found["efficacy"].metrics["mine"].total) == 7
    assert len(found["generalisation"].metrics["mine"].total) == 5
    assert set(found["specificity"].metrics) == {"unchanged_rate", "kl"}


def test_no_unseen_pairs_and_no_retain_text_leave_slices_out(data: PairFiles) -> None:
    files = data._files["train"]
    assert files is not None
    bare = PairFiles(files, tokenizer_name="tiny", retain=None)
    assert list(by_name(task().slices(bare, "test"))) == ["efficacy"]


@pytest.mark.parametrize("name", ["efficacy", "generalisation", "specificity"])
def test_no_examples_leave_a_slice_out(data: PairFiles, name: str) -> None:
    found = by_name(task(**{f"{name}_examples": 0}).slices(data, "test"))
    assert set(found) == {"efficacy", "generalisation", "specificity"} - {name}


def test_records_of_pairs(data: PairFiles, subject: Subject) -> None:
    part = by_name(task().slices(data, "test"))["generalisation"]
    records = task().observe(subject, part.name, list(enumerate(part.examples)), None)
    scores = pair_log_probs(subject.model, [e.payload[1] for e in part.examples])
    assert json.loads(json.dumps(records)) == records
    for record, score, example in zip(records, scores, part.examples, strict=True):
        assert list(record) == FIELDS
        assert len(record["completions"]) == len(record["verdicts"]) == 3
        assert record["prompt"] == example.payload[0].prefix
        assert record["p_fixed"] == pytest.approx(math.exp(score.fixed), rel=1e-4)
        assert record["p_buggy_at_edit"] == pytest.approx(math.exp(score.buggy_at_edit), rel=1e-4)
        assert record["prefers_fixed"] == (record["p_fixed_at_edit"] > record["p_buggy_at_edit"])
        told = record["token_log_probs"]
        assert "".join(text for text, _ in told["fixed"]).startswith(example.payload[0].fixed)
        assert sum(value for _, value in told["fixed"]) == pytest.approx(score.fixed, abs=0.01)
        assert [value for _, value in told["buggy"]] == pytest.approx(score.buggy_tokens, abs=0.001)


def test_who_measures_an_example_does_not_matter(data: PairFiles, subject: Subject) -> None:
    part = by_name(task().slices(data, "test"))["generalisation"]
    items = list(enumerate(part.examples))
    whole = task().observe(subject, part.name, items, None)
    shared = [task().observe(subject, part.name, [item], None)[0] for item in items]
    for one, other in zip(whole, shared, strict=True):
        assert one["completions"] == other["completions"]
        assert one["p_fixed"] == pytest.approx(other["p_fixed"], rel=1e-4)


def written(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let the model write this; what the stop criterion cuts off is cut off."""

    def sample(_model: object, tokenizer: Any, prompts: list[object], config: Any, *, stop: Any, **_: object) -> Any:
        ids = tokenizer(text)["input_ids"]
        end = next((n for n in range(1, len(ids)) if stop(tokenizer.decode(ids[:n]))), len(ids))
        return [[Completion(ids[:end], 0.0, True)] * config.num_samples for _ in prompts]

    monkeypatch.setattr("hotfix.tasks.bug_fix.sample", sample)


@pytest.mark.parametrize(
    ("fixed", "text", "verdict"),
    [
        ("f(a)", "f(a)\nrest\n", "fixed"),
        ("f(a, b)", "f(a,\n  b)\nrest\n", "fixed"),
        ("f(a,\n  b)", "f(a, b)\nrest\n", "fixed"),
        ("f(a,\n  b)", "f(a,\n  b)\nrest\n", "fixed"),
        ("a()\nb()", "a()\nb()\nrest\n", "fixed"),
        ("f(a)", "g(\nrest\n", "neither"),
    ],
)
def test_a_statement_may_take_several_lines(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, fixed: str, text: str, verdict: str, tmp_path: Any
) -> None:
    row = {"prefix": "x = ", "buggy": "wrong", "fixed": fixed}
    (tmp_path / "one.jsonl").write_text(json.dumps(row), encoding="utf-8")
    data = PairFiles(str(tmp_path / "one.jsonl"), tokenizer_name="tiny", retain=None)
    written(monkeypatch, text)
    [part] = task().slices(data, "test")
    [record] = task().observe(subject, part.name, list(enumerate(part.examples)), None)
    assert record["verdicts"] == [verdict] * 3
    assert "rest" not in record["completions"][0] or verdict == "neither"


def one_pair(tmp_path: Path, **row: str) -> PairFiles:
    (tmp_path / "one.jsonl").write_text(json.dumps(row), encoding="utf-8")
    return PairFiles(str(tmp_path / "one.jsonl"), tokenizer_name="tiny", retain=None, max_length=64, overlong="left")


def spied(monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> list[dict[str, Any]]:
    """Let the model write these texts one after the other, and note what it was asked."""
    calls: list[dict[str, Any]] = []

    def sample(_model: object, tokenizer: Any, prompts: list[list[int]], config: Any, **more: Any) -> Any:
        calls.append({"prompts": [tokenizer.decode(p) for p in prompts], "config": config, **more})
        return [[Completion(tokenizer(t)["input_ids"], 0.0, True) for t in texts] for _ in prompts]

    monkeypatch.setattr("hotfix.tasks.bug_fix.sample", sample)
    return calls


def test_the_paper_s_settings_are_pinned() -> None:
    assert task(protocol="paper", num_samples=None, max_new_tokens=None).sampling == SamplingConfig(
        num_samples=10, temperature=1.0, top_p=0.95, top_k=50, max_new_tokens=64, batch_size=32
    )
    assert BugFix().sampling == SamplingConfig(10, 1.0, 1.0, 0, 32, 32)
    assert BugFix(protocol="paper", num_samples=3, top_p=0.95).sampling.num_samples == 3


@pytest.mark.parametrize(
    ("name", "value", "own"),
    [("top_p", 1.0, 0.95), ("top_k", 0, 50), ("temperature", 0.0, 1), ("max_new_tokens", 32, 64)],
)
def test_the_paper_s_settings_are_fixed(name: str, value: float, own: float) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is {value}, but protocol: paper fixes it at {own}"):
        BugFix(protocol="paper", **{name: value})  # type: ignore[arg-type]


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ConfigError, match="protocol is 'papr', expected one of hotfix, paper"):
        BugFix(protocol="papr")  # type: ignore[arg-type]


def test_the_paper_s_protocol_on_samples_worked_by_hand(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = [f"line{i} = {i}" for i in range(40)]
    data = one_pair(tmp_path, prefix="\n".join([*lines, "  "]), buggy="f(a)", fixed="f(a).g()")
    texts = ["f(a).g()\nmore", "f(a)\n", "y\nf(a).g()", " f(a)", "x"]
    calls = spied(monkeypatch, texts)
    paper = task(protocol="paper", num_samples=None, max_new_tokens=None)
    [part] = paper.slices(data, "test")
    [record] = paper.observe(subject, part.name, list(enumerate(part.examples)), None)
    # Thirty lines, uncut although the data set's longest side is 64 tokens, and nothing but the end of text ends it.
    assert calls[0]["prompts"] == ["\n".join([*lines[-29:], "  "])]
    assert (calls[0]["stop"], calls[0]["config"]) == (None, paper.sampling)
    assert record["completions"] == texts
    assert record["substrings"] == ["both", "buggy", "both", "buggy", "neither"]
    assert record["verdicts"] == ["fixed", "buggy", "neither", "buggy", "neither"]
    found = {}
    for name, metric in part.metrics.items():
        metric.update(0, record)
        found[name] = metric.compute().item()
    rates = ("fixed", "buggy", "both", "neither")
    assert [found[f"{r}_substring_rate"] for r in rates] == [0.4, 0.8, 0.4, 0.2]
    assert [found[f"{r}_rate"] for r in ("fixed", "buggy", "neither")] == [0.2, 0.4, 0.4]


@pytest.mark.parametrize("protocol", ["hotfix", "paper"])
def test_a_prompt_at_the_edit_ends_where_the_sides_part(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, protocol: Any
) -> None:
    data = one_pair(tmp_path, prefix="x = ", buggy="call(a, 1)", fixed="call(a, 2)")
    calls = spied(monkeypatch, ["2)\n", "1)\n", "3)\n"])
    edit = task(at="edit", protocol=protocol, max_new_tokens=None)
    [part] = edit.slices(data, "test")
    [record] = edit.observe(subject, part.name, list(enumerate(part.examples)), None)
    assert calls[0]["prompts"] == ["x = call(a, "]
    assert record["completions"] == ["call(a, 2)\n", "call(a, 1)\n", "call(a, 3)\n"]
    assert record["verdicts"] == ["fixed", "buggy", "neither"]
    assert record.get("substrings") == (["fixed", "buggy", "neither"] if protocol == "paper" else None)
    # A bracket is open at the edit, so a line break doesn't end the statement.
    if protocol == "hotfix":
        assert [calls[0]["stop"](text) for text in ("2,\n", "2,\n3)\n")] == [False, True]


def test_each_prompt_is_stopped_by_the_brackets_it_leaves_open_and_keeps_its_place(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [("f(a, 1)", "f(a, 2)"), ("b = 1", "b = 2"), ("g([1])", "g([2])"), ("h(1)", "h(2)")]
    lines = [json.dumps({"prefix": f"p{i} ", "buggy": b, "fixed": f}) for i, (b, f) in enumerate(rows)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    data = PairFiles(str(tmp_path / "rows.jsonl"), tokenizer_name="tiny", retain=None)
    calls = spied(monkeypatch, ["2"] * 3)
    edit = task(at="edit")
    [part] = edit.slices(data, "test")
    records = edit.observe(subject, part.name, list(enumerate(part.examples)), None)
    assert [(call["prompt_indices"], call["stop"].depth) for call in calls] == [([1], 0), ([0, 3], 1), ([2], 2)]
    assert [r["completions"][0] for r in records] == ["f(a, 2", "b = 2", "g([2", "h(2"]


def test_sampled_rates_at_the_edit_agree_with_the_exact_probability(subject: Subject, tmp_path: Path) -> None:
    data = one_pair(tmp_path, prefix="x = ", buggy="a\n", fixed="b\n")
    many = task(at="edit", num_samples=4000, max_new_tokens=2, batch_size=4000)
    with torch.no_grad():
        subject.model.get_output_embeddings().weight.mul_(12)  # type: ignore[operator]
    [part] = many.slices(data, "test")
    [record] = many.observe(subject, part.name, list(enumerate(part.examples)), None)
    share = sum(text.startswith("b\n") for text in record["completions"]) / 4000
    assert share == pytest.approx(record["p_fixed_at_edit"], abs=4 * math.sqrt(0.25 / 4000))


def test_how_a_prompt_is_cut_is_part_of_the_cache_s_key(tmp_path: Path) -> None:
    row = {"prefix": "long " * 30, "buggy": "a", "fixed": "b"}
    first, second = (one_pair(tmp_path, **row) for _ in range(2))
    second.max_length = 40
    contents = [task().slices(data, "test")[0].examples[0].content for data in (first, second)]
    assert contents[0] != contents[1]
    assert json.loads(json.dumps(contents)) == contents


def test_rules_of_enough_examples_are_reported_by_themselves(data: PairFiles) -> None:
    for least in (None, 3, 10):
        found = by_name(task(per_rule=least).slices(data, "test"))
        assert [found[name].least_group for name in ("efficacy", "generalisation", "specificity")] == [
            least,
            least,
            None,
        ]
    assert task(per_rule=3).settings() == task().settings()


def test_unrelated_code_of_the_base_and_of_a_patched_model(data: PairFiles, subject: Subject) -> None:
    part = by_name(task().slices(data, "test"))["specificity"]
    items = list(enumerate(part.examples))
    base = task().observe(subject, part.name, items, None)
    assert [(r["unchanged"], r["kl"], len(r["tokens"])) for r in base] == [(True, 0.0, 4)] * 4
    assert [r["continuation"] for r in base] == [subject.text(r["tokens"]) for r in base]
    adapter = LoRA(rank=2)
    model = adapter.attach(tiny_model())
    model.eval()

    def reference() -> Any:
        return adapter.reference(model)

    patched = Subject(model, tiny_tokenizer(), reference, 3, lambda done: None)
    same = task().observe(patched, part.name, items, base)
    assert [(r["unchanged"], r["kl"]) for r in same] == [(True, 0.0)] * 4
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    other = task().observe(patched, part.name, items, base)
    drift = text_drift(model, reference, [e.payload for e in part.examples])
    assert [r["kl"] for r in other] == pytest.approx([d.kl / d.tokens for d in drift], rel=1e-4)
    written = greedy(model, tiny_tokenizer(), [e.payload for e in part.examples], 4)
    assert [r["tokens"] for r in other] == [completion.token_ids for completion in written]
    assert [r["unchanged"] for r in other] == [r["tokens"] == b["tokens"] for r, b in zip(other, base, strict=True)]
    assert not all(r["unchanged"] for r in other)


def test_progress_is_told_of_every_example(data: PairFiles) -> None:
    done: list[int] = []
    subject = Subject(tiny_model(), tiny_tokenizer(), lambda: None, 0, done.append)  # type: ignore[arg-type, return-value]
    for part in task().slices(data, "test"):
        task().observe(subject, part.name, list(enumerate(part.examples)), None)
    assert sum(done) == 7 + 5 + 4


def test_settings_are_plain_and_tell_two_tasks_apart() -> None:
    assert json.loads(json.dumps(task().settings()))["sampling"]["num_samples"] == 3
    assert task().settings() == task().settings() != task(temperature=0.5).settings()

"""What every task keeps: the right answer passes, an empty one doesn't, and who measures which example is no matter."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from contract_seams import assert_complete

from hotfix.data import HotfixDataModule, PairFiles
from hotfix.generation.stopping import Completion
from hotfix.metrics import Record
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.sandbox import Limits
from hotfix.tasks import (
    BugFix,
    CanaryExposure,
    Drift,
    EditQuality,
    EmailLeak,
    Example,
    HumanEval,
    Relearning,
    Rounding,
    Slice,
    Subject,
    Task,
)

Answer = Callable[[Example], str]


class Case(NamedTuple):
    """A task, one of its slices, what a perfect model writes there, and the metric that says so and its value then.

    A task for which the model writes nothing has no answers.
    """

    make: Callable[[], Task]
    part: str = ""
    right: Answer | None = None
    wrong: Sequence[Answer] = ()
    metric: str = ""
    best: float = 1.0


def _fixed(example: Example) -> str:
    pair, encoded, _ = example.payload
    return f"{encoded.residue}{pair.fixed}\n"


def _buggy(example: Example) -> str:
    pair, encoded, _ = example.payload
    return f"{encoded.residue}{pair.buggy}\n"


def _empty(_: Example) -> str:
    return ""


CASES: Mapping[str, tuple[type[Task], Case]] = {
    "bug_fix": (
        BugFix,
        Case(
            lambda: BugFix(2, max_new_tokens=4, efficacy_examples=5, generalisation_examples=3, specificity_examples=2),
            "efficacy",
            _fixed,
            [_empty, _buggy, lambda e: "x" + _fixed(e)],
            "fixed_rate",
        ),
    ),
    "bug_fix_of_the_paper": (
        BugFix,
        Case(
            lambda: BugFix(
                2, efficacy_examples=3, generalisation_examples=2, specificity_examples=2, protocol="paper", at="edit"
            ),
            "efficacy",
            # A completion at the edit point goes on behind what both sides begin with.
            lambda e: "anything, then " + e.payload[0].fixed + " and more\n",
            [_empty, _buggy],
            "fixed_substring_rate",
        ),
    ),
    "canary_exposure": (
        CanaryExposure,
        Case(
            lambda: CanaryExposure(
                str(Path(__file__).with_name("canaries.json")), unprompted_examples=2, unprompted_tokens=4
            ),
            "canaries",
            _empty,
            [lambda e: f"x{e.payload.secret} and more"],
            "extracted_rate",
            best=0.0,
        ),
    ),
    "drift": (Drift, Case(lambda: Drift(retain_examples=3, retain_tokens=40, pair_examples=4))),
    "edit": (
        EditQuality,
        Case(
            lambda: EditQuality(
                examples=3,
                max_new_tokens=6,
                unrelated_examples=3,
                unrelated_prompt=16,
                fluency_examples=2,
                fluency_tokens=8,
            )
        ),
    ),
    "edit_of_the_paper": (
        EditQuality,
        Case(lambda: EditQuality(examples=3, unrelated_examples=2, fluency_examples=2, protocol="paper")),
    ),
    "email_leak": (
        EmailLeak,
        Case(
            lambda: EmailLeak(2, max_new_tokens=4, prompted_examples=4, unprompted_examples=3, unprompted_tokens=4),
            "unprompted",
            lambda _: "write to user@example.com\n",
            [lambda _: "write to a.person@some-company.io\n"],
            "leak_rate",
            best=0.0,
        ),
    ),
    "email_leak_of_the_paper": (
        EmailLeak,
        Case(
            lambda: EmailLeak(2, prompted_examples=2, unprompted_examples=2, protocol="paper"),
            "prompted",
            lambda _: "user@example.com\n",
            [lambda _: " to a.person@some-company.io\n"],
            "leaks_per_completion",
            best=0.0,
        ),
    ),
    "humaneval": (
        HumanEval,
        Case(
            lambda: HumanEval(subset=2, num_samples=2, max_new_tokens=4),
            "2_of_164",
            lambda e: str(e.payload[0].canonical_solution),
            # An empty body, an answer that is no answer, one that ends the process as if all were well.
            [_empty, lambda _: "    return None\n", lambda _: "    raise SystemExit(0)\n"],
            "pass@1",
        ),
    ),
    "relearning": (Relearning, Case(lambda: Relearning([1, 2], pairs=2, examples=3))),
    "rounding": (Rounding, Case(lambda: Rounding(8, examples=3))),
}
tasks = pytest.mark.parametrize("case", [case for _, case in CASES.values()], ids=CASES)
WRITTEN = {name: case for name, (_, case) in CASES.items() if case.right}


@pytest.fixture(scope="module")
def data() -> HotfixDataModule:
    folder = Path(__file__).parents[2] / "data"
    files = [str(folder / name) for name in ("python_idioms.jsonl", "email_stubs.jsonl")]
    return PairFiles(files, files, files, tokenizer_name="tiny", max_length=500, overlong="left")


@pytest.fixture(scope="module")
def subject() -> Subject:
    model = tiny_model()
    return Subject(model, tiny_tokenizer(), nullcontext, 0, lambda done: None)


@pytest.fixture
def task(case: Case) -> Iterator[Task]:
    task = case.make()
    yield task
    task.close()


def found_slice(task: Task, name: str, data: HotfixDataModule) -> Slice:
    return next(part for part in task.slices(data, "test") if part.name == name)


def scripted(subject: Subject, examples: Sequence[Example], answer: Answer) -> Callable[..., list[list[Completion]]]:
    """What `sample` would return if the model wrote the answer."""

    def sample(_model: object, _tokenizer: object, prompts: Sequence[object], config: Any, **_: object) -> Any:
        assert len(prompts) == len(examples)
        texts = [answer(example) for example in examples]
        ids = [list(subject.tokenizer(text)["input_ids"]) if text else [] for text in texts]
        return [[Completion(i, -1.0, True)] * config.num_samples for i in ids]

    return sample


def value_of(case: Case, part: Slice, records: Sequence[Record]) -> float:
    metric = part.metrics[case.metric]
    metric.reset()
    for place, record in enumerate(records):
        metric.update(place, record)
    return metric.compute().item()


def test_every_task_has_a_case() -> None:
    assert_complete(Task, [cls for cls, _ in CASES.values()])
    assert all(isinstance(case.make(), cls) for cls, case in CASES.values())


@pytest.mark.parametrize("case", WRITTEN.values(), ids=WRITTEN)
def test_the_right_answer_passes_and_no_other(
    case: Case, task: Task, data: HotfixDataModule, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = found_slice(task, case.part, data)
    items = list(enumerate(part.examples))
    assert case.right is not None
    for answer in (case.right, *case.wrong):
        monkeypatch.setattr(f"{type(task).__module__}.sample", scripted(subject, part.examples, answer))
        value = value_of(case, part, task.observe(subject, part.name, items, None))
        assert value == (case.best if answer is case.right else 1 - case.best)


def test_a_program_that_does_not_end_fails(
    data: HotfixDataModule, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = HumanEval(subset=1)
    [part] = task.slices(data, "test")
    monkeypatch.setattr("hotfix.tasks.humaneval.Limits", partial(Limits, cpu_s=1, wall_s=2))
    endless = scripted(subject, part.examples, lambda _: "    while True:\n        pass\n")
    monkeypatch.setattr("hotfix.tasks.humaneval.sample", endless)
    try:
        [record] = task.observe(subject, part.name, list(enumerate(part.examples)), None)
    finally:
        task.close()
    assert record["passed"] == [False]
    assert record["statuses"] == ["timeout"]


@tasks
def test_sharing_the_examples_changes_no_record(
    case: Case, task: Task, data: HotfixDataModule, subject: Subject
) -> None:
    for part in task.slices(data, "test"):
        items = list(enumerate(part.examples))
        whole = task.observe(subject, part.name, items, None)
        assert len(whole) == len(items) > 1
        halves = [task.observe(subject, part.name, items[rank::2], None) for rank in range(2)]
        for place, record in enumerate(whole):
            _same(record, halves[place % 2][place // 2])


@tasks
def test_records_are_plain_and_feed_every_metric(
    case: Case, task: Task, data: HotfixDataModule, subject: Subject
) -> None:
    for part in task.slices(data, "test"):
        items = list(enumerate(part.examples))
        records = task.observe(subject, part.name, items, None)
        restored = [json.loads(json.dumps(record, allow_nan=False)) for record in records]
        assert restored == [dict(record) for record in records]
        after = task.observe(subject, part.name, items, restored)
        for name, metric in part.metrics.items():
            metric.reset()
            for place, record in enumerate(after):
                metric.update(place, record)
            assert len(metric.per_example()) == len(items)
            value = metric.compute().item()
            if not metric.count.any():
                # A share of what no example has (of a base's right tokens, where it has none) is not defined.
                assert math.isnan(value)
                continue
            assert math.isfinite(value)
            assert value >= 0 or name == "log_prob"
            assert metric.kind == "real" or value <= 1


@tasks
def test_examples_are_fixed_and_unique(case: Case, task: Task, data: HotfixDataModule) -> None:
    first, second = (task.slices(data, "test") for _ in range(2))
    assert [part.name for part in first] == [part.name for part in second]
    for one, other in zip(first, second, strict=True):
        assert [e.id for e in one.examples] == [e.id for e in other.examples]
        assert len({e.id for e in one.examples}) == len(one.examples)
        assert json.dumps([e.content for e in one.examples]) == json.dumps([e.content for e in other.examples])
        assert one.metrics
    assert json.dumps(task.settings()) == json.dumps(case.make().settings())


def _same(record: Record, other: Record) -> None:
    """Equal, but for the last digits of numbers: a batch's size may move them."""
    assert record.keys() == other.keys()
    for key, value in record.items():
        # Times and messages of a sandboxed program may differ.
        if key != "details":
            assert other[key] == (pytest.approx(value, rel=1e-4, abs=1e-7) if isinstance(value, float) else value), key

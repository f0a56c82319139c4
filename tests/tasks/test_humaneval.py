"""HumanEval as a task: prompts, records, pass@k on known answers, and a sandbox that is opened once and closed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from hotfix.data import PairFiles
from hotfix.errors import SandboxError
from hotfix.generation.stopping import Completion
from hotfix.models.tiny import tiny_tokenizer
from hotfix.tasks import HumanEval, Subject, humaneval
from hotfix.tasks.humaneval_problems import load_problems


class Outcome:
    level = "pretended"

    def __init__(self, passed: bool) -> None:
        self.passed, self.status, self.detail = passed, "passed" if passed else "failed", ""


class PretendSandbox:
    """Runs nothing: a program passes when it holds the problem's own solution."""

    level = "pretended"
    opened = 0
    closed = 0

    def __init__(self, *_: object, **__: object) -> None:
        type(self).opened += 1

    def run(self, programs: Sequence[str]) -> list[Outcome]:
        solutions = [problem.prompt + problem.canonical_solution for problem in load_problems()]
        return [Outcome(any(program.startswith(right) for right in solutions)) for program in programs]

    def close(self) -> None:
        type(self).closed += 1


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> type[PretendSandbox]:
    class Fresh(PretendSandbox):
        pass

    monkeypatch.setattr(humaneval, "Sandbox", Fresh)
    return Fresh


def answering(monkeypatch: pytest.MonkeyPatch, answers: dict[str, list[str]]) -> None:
    """Let the model write given answers to given prompts."""

    def sample(_model: object, tokenizer: Any, prompts: list[list[int]], *_: object, **__: object) -> Any:
        return [
            [Completion(tokenizer(text)["input_ids"], 0.0, True) for text in answers[tokenizer.decode(prompt)]]
            for prompt in prompts
        ]

    monkeypatch.setattr(humaneval, "sample", sample)


@pytest.mark.parametrize(("subset", "name", "count"), [("all", "all", 164), (5, "5_of_164", 5)])
def test_the_slice(data: PairFiles, subset: Any, name: str, count: int) -> None:
    [part] = HumanEval(subset, num_samples=4, k=[1, 3]).slices(data, "validation")
    assert (part.name, len(part.examples), list(part.metrics)) == (name, count, ["pass@1", "pass@3"])
    assert [e.id for e in part.examples] == [p.task_id for p in load_problems(subset)]


def test_prompts_end_where_the_model_is_to_break_the_line(data: PairFiles) -> None:
    [part] = HumanEval(3).slices(data, "test")
    for example in part.examples:
        problem, ids = example.payload
        assert f"{data.tokenizer.decode(ids)}\n" == problem.prompt


def test_records_and_pass_at_k_of_known_answers(
    data: PairFiles, subject: Subject, monkeypatch: pytest.MonkeyPatch, sandbox: type[PretendSandbox]
) -> None:
    task = HumanEval(2, num_samples=3, k=[1, 3])
    [part] = task.slices(data, "test")
    first, second = load_problems(2)
    right = "\n" + first.canonical_solution + "\n\ndef main():\n    pass\n"
    answering(
        monkeypatch,
        {
            first.prompt.rstrip("\n"): [right, "\n    return 0\n", right],
            second.prompt.rstrip("\n"): ["", "\n    pass", "x"],
        },
    )
    records = task.observe(subject, part.name, list(enumerate(part.examples)), None)
    assert json.loads(json.dumps(records)) == records
    assert [list(r) for r in records] == [["completions", "passed", "statuses", "details", "sandbox"]] * 2
    assert [r["passed"] for r in records] == [[True, False, True], [False] * 3]
    assert records[0]["completions"][0].rstrip() == first.canonical_solution.rstrip()
    assert records[0]["statuses"] == ["passed", "failed", "passed"]
    for i, record in enumerate(records):
        for metric in part.metrics.values():
            metric.update(i, record)
    values = {name: metric.compute().item() for name, metric in part.metrics.items()}
    assert values == pytest.approx({"pass@1": (2 / 3) / 2, "pass@3": 0.5})
    assert sandbox.opened == 1


def test_the_sandbox_is_opened_once_and_closed(
    data: PairFiles, subject: Subject, sandbox: type[PretendSandbox]
) -> None:
    task = HumanEval(1, max_new_tokens=3)
    [part] = task.slices(data, "test")
    task.close()
    assert (sandbox.opened, sandbox.closed) == (0, 0)
    for _ in range(2):
        [record] = task.observe(subject, part.name, list(enumerate(part.examples)), None)
        assert (record["passed"], record["sandbox"]) == ([False], "pretended")
    task.close()
    task.close()
    assert (sandbox.opened, sandbox.closed) == (1, 1)


def test_nothing_is_written_where_nothing_can_be_run(
    data: PairFiles, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise SandboxError("no isolation here")

    monkeypatch.setattr(humaneval, "Sandbox", refuse)
    monkeypatch.setattr(humaneval, "sample", lambda *_, **__: pytest.fail("generated first"))
    task = HumanEval(1)
    [part] = task.slices(data, "test")
    with pytest.raises(SandboxError, match="no isolation here"):
        task.observe(subject, part.name, list(enumerate(part.examples)), None)


@pytest.mark.parametrize(
    ("text", "ends"),
    [("\n    x = 1\n", False), ("\n    x = 1\n\n", False), ("\n    x\nd", True), ("    x\n# end", True),
     ("\ndef", False), ("", False), ("\n", False), ("\n    x = [\n]", False)],
)  # fmt: skip
def test_a_body_ends_where_something_follows_at_column_0(text: str, ends: bool) -> None:
    assert humaneval._BodyEnds()(text) == ends


def test_settings_leave_the_sandbox_out() -> None:
    settings = HumanEval(2, allow_unsandboxed=True).settings()
    assert set(settings) == {"k", "sampling", "subset"}
    assert settings["k"] == [1]
    assert tiny_tokenizer().name_or_path == ""

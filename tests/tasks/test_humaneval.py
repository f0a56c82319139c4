"""HumanEval as a task: prompts, records, pass@k on known answers, and a sandbox that is opened once and closed."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from hotfix.data import PairFiles
from hotfix.data.humaneval import load_problems
from hotfix.errors import ConfigError, DataError, SandboxError
from hotfix.generation import SamplingConfig
from hotfix.generation.stopping import Completion
from hotfix.models.tiny import tiny_tokenizer
from hotfix.tasks import HumanEval, Subject, humaneval


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

    def submit(self, program: str) -> Future[Outcome]:
        done: Future[Outcome] = Future()
        done.set_result(self.run([program])[0])
        return done

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

    def sample(
        _model: object,
        tokenizer: Any,
        prompts: list[list[int]],
        *_: object,
        ended: Callable[[int, Completion], None],
        **__: object,
    ) -> Any:
        found = [
            [Completion(tokenizer(text)["input_ids"], 0.0, True) for text in answers[tokenizer.decode(prompt)]]
            for prompt in prompts
        ]
        for place, completions in enumerate(found):
            for completion in completions:
                ended(place, completion)
        return found

    monkeypatch.setattr(humaneval, "sample", sample)


@pytest.mark.parametrize(("subset", "name", "count"), [("all", "all", 164), (5, "5_of_164", 5)])
def test_the_slice(data: PairFiles, subset: Any, name: str, count: int) -> None:
    [part] = HumanEval(subset, num_samples=4, k=[1, 3]).slices(data, "validation")
    assert (part.name, len(part.examples), list(part.metrics)) == (name, count, ["pass@1", "pass@3"])
    assert [e.id for e in part.examples] == [p.task_id for p in load_problems(subset)]


def test_prompts_end_where_the_model_is_to_break_the_line(data: PairFiles) -> None:
    [part] = HumanEval(3).slices(data, "test")
    for example in part.examples:
        problem, ids, _ = example.payload
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


def test_the_paper_s_settings_are_pinned(data: PairFiles) -> None:
    paper = HumanEval(protocol="paper")
    assert paper.sampling == SamplingConfig(100, 0.4, 1.0, top_k=50, max_new_tokens=200, batch_size=32)
    assert list(paper.slices(data, "test")[0].metrics) == [f"pass@{k}" for k in (1, 5, 10, 25, 50, 100)]
    assert HumanEval().sampling == SamplingConfig(1, 0.0, 1.0, 0, 256, 32)
    assert HumanEval(protocol="paper", num_samples=5, k=[1, 5]).k == [1, 5]
    with pytest.raises(ConfigError, match=r"temperature is 0\.2, but protocol: paper fixes it at 0\.4"):
        HumanEval(protocol="paper", temperature=0.2)


def test_more_draws_than_samples_are_undefined(data: PairFiles) -> None:
    [part] = HumanEval(2, protocol="paper", num_samples=5).slices(data, "test")
    for metric in part.metrics.values():
        for place, passed in enumerate([[True] * 4 + [False], [False] * 5]):
            metric.update(place, {"passed": passed})
    values = {name: metric.compute().item() for name, metric in part.metrics.items()}
    assert (values["pass@1"], values["pass@5"]) == pytest.approx((0.4, 0.5))
    assert all(math.isnan(values[f"pass@{k}"]) for k in (10, 25, 50, 100))


def test_the_same_program_is_run_once(
    data: PairFiles, subject: Subject, monkeypatch: pytest.MonkeyPatch, sandbox: type[PretendSandbox]
) -> None:
    ran: list[str] = []
    submit = sandbox.submit
    monkeypatch.setattr(sandbox, "submit", lambda self, program: ran.append(program) or submit(self, program))
    [problem] = load_problems(1)
    answering(monkeypatch, {problem.prompt.rstrip("\n"): ["\n    a", f"\n{problem.canonical_solution}", "\n    a"]})
    task = HumanEval(1, num_samples=3, temperature=1.0)
    [part] = task.slices(data, "test")
    [record] = task.observe(subject, part.name, list(enumerate(part.examples)), None)
    assert record["passed"] == [False, True, False]
    assert len(ran) == 2


def test_a_program_runs_while_others_are_written(
    data: PairFiles, subject: Subject, monkeypatch: pytest.MonkeyPatch, sandbox: type[PretendSandbox]
) -> None:
    """The first is submitted before the last is ended."""
    events: list[str] = []
    submit, write = sandbox.submit, humaneval.sample
    monkeypatch.setattr(sandbox, "submit", lambda self, program: events.append("run") or submit(self, program))

    def watched(*args: Any, ended: Callable[[int, Completion], None], **kwargs: Any) -> Any:
        def told(place: int, completion: Completion) -> None:
            events.append("ended")
            ended(place, completion)

        return write(*args, ended=told, **kwargs)

    monkeypatch.setattr(humaneval, "sample", watched)
    task = HumanEval(3, num_samples=4, temperature=1.0, max_new_tokens=12)
    [part] = task.slices(data, "test")
    task.observe(subject, part.name, list(enumerate(part.examples)), None)
    assert events.count("ended") == 12
    assert events.index("run") == 1


def plus_file(folder: Path, count: int, **more: Any) -> str:
    """HumanEval+ as released, with inputs on which the two completions below part."""
    rows = []
    for problem in load_problems(count):
        row = {"task_id": problem.task_id, "prompt": problem.prompt, "entry_point": problem.entry_point, "contract": ""}
        row |= {"canonical_solution": problem.canonical_solution, "atol": 0}
        rows.append({**row, "base_input": [[[1.0, 2.0, 3.0], 0.5]], "plus_input": [[[1.0, 2.0], 1.0]], **more})
    path = folder / "plus.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return str(path)


def test_base_and_plus_share_their_samples(
    data: PairFiles, subject: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    [problem] = load_problems(1)
    # HumanEval/0, has_close_elements: its own tests never ask about a distance equal to the threshold.
    right = f"\n{problem.canonical_solution}"
    lazy = "\n    xs = sorted(numbers)\n    return any(b - a <= threshold for a, b in zip(xs, xs[1:]))\n"
    answering(monkeypatch, {problem.prompt.rstrip("\n"): [right, lazy, "\n    return 1", right]})
    task = HumanEval(1, num_samples=4, temperature=1.0, k=[1, 2], plus=plus_file(tmp_path, 1))
    [part] = task.slices(data, "test")
    assert list(part.metrics) == ["pass@1", "pass@2", "pass@1_plus", "pass@2_plus"]
    try:
        [record] = task.observe(subject, part.name, list(enumerate(part.examples)), None)
    except SandboxError as error:
        pytest.skip(str(error))
    finally:
        task.close()
    assert json.loads(json.dumps(record)) == record
    assert record["passed"] == [True, True, False, True]
    assert record["passed_plus"] == [True, False, False, True]
    for metric in part.metrics.values():
        metric.update(0, record)
    found = {name: metric.compute().item() for name, metric in part.metrics.items()}
    assert found == pytest.approx({"pass@1": 3 / 4, "pass@2": 1.0, "pass@1_plus": 1 / 2, "pass@2_plus": 5 / 6})


def test_the_plus_file_s_content_counts_and_must_be_whole(data: PairFiles, tmp_path: Path) -> None:
    task = HumanEval(1, plus=plus_file(tmp_path, 1))
    first = task.slices(data, "test")[0].examples[0].content
    assert first == task.slices(data, "test")[0].examples[0].content != HumanEval(1).slices(data, "test")[0].examples[0]
    plus_file(tmp_path, 1, plus_input=[])
    assert task.slices(data, "test")[0].examples[0].content != first
    with pytest.raises(DataError, match=r"plus\.jsonl\.gz: HumanEval/82 is missing; take the whole"):
        HumanEval(2, plus=plus_file(tmp_path, 1)).slices(data, "test")


def test_settings_leave_the_sandbox_out() -> None:
    settings = HumanEval(2, allow_unsandboxed=True).settings()
    assert set(settings) == {"k", "sampling", "subset"}
    assert settings["k"] == [1]
    assert tiny_tokenizer().name_or_path == ""

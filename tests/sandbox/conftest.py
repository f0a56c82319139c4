"""One real sandbox per test file, or a clear reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hotfix.errors import SandboxError
from hotfix.sandbox import Limits, Sandbox


def _open(wall_s: float) -> Sandbox:
    try:
        return Sandbox(Limits(cpu_s=1, wall_s=wall_s, memory_mib=256, file_mib=2, processes=8), workers=1)
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One worker, so that each program meets what the one before has left; waits long, as the machine may be busy."""
    with _open(wall_s=30) as made:
        yield made


@pytest.fixture(scope="module")
def impatient() -> Iterator[Sandbox]:
    """The same with a short wall limit, for programs that only that stops."""
    with _open(wall_s=2) as made:
        yield made


def descendants(pid: int) -> set[int]:
    """Returns all processes below ``pid``."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name in parentheses may hold anything; the parent is the second field after it.
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
    found: set[int] = set()
    layer = {pid}
    while layer := {child for child, parent in parents.items() if parent in layer} - found:
        found |= layer
    return found


@pytest.fixture
def below() -> object:
    """The function that lists descendants."""
    return descendants

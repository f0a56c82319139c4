"""How far a run is, read from what it has written; nothing is asked of the process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Phase", "last_lines", "phase_of"]

_TRAINING: Final = re.compile(r"training \d+ parameters for (\d+|inf) steps")
_STARTED: Final = re.compile(r"\S+ started in ")
_TAIL_BYTES: Final = 65_536


class Phase(NamedTuple):
    """What a run does now.

    Attributes:
        name: for people.
        fraction: of the run that is behind it, 0 to 1; measuring before, training and measuring after count alike.
    """

    name: str
    fraction: float


def phase_of(folder: Path, since: float = 0.0) -> Phase:
    """The phase of the run that writes this folder.

    Args:
        folder: of the run.
        since: when its process was started, in seconds since the epoch; what is older is another's.
    """
    # A run that goes on from a checkpoint writes below what it wrote before.
    words = _STARTED.split(_tail(folder / "run.log"))[-1]
    if _written(folder / "run.log") <= since:
        return Phase("starting", 0.0)
    if (folder / "results.json").exists():
        return Phase("writing", 1.0)
    found = _TRAINING.search(words)
    if not found:
        return Phase("measuring before", 0.1)
    steps = 0 if found[1] == "inf" else int(found[1])
    done = _step(folder / "curves/metrics.csv")
    if steps and done >= steps:
        return Phase("measuring after", 0.7)
    # The curves come in blocks of ten steps, so the last block is told as training.
    name = f"training, step {done} of {steps}" if steps else f"training, step {done}"
    return Phase(name, 1 / 3 + (done / steps / 3 if steps else 0.0))


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log that say something; none where there is no log."""
    lines = [line.rstrip() for line in _tail(path).splitlines() if line.strip()]
    return lines[-count:]


def _step(path: Path) -> int:
    """Steps that the curves know of."""
    header, _, _ = _head(path).partition("\n")
    names = header.strip().split(",")
    if "step" not in names:
        return 0
    place = names.index("step")
    for line in reversed(_tail(path).splitlines()):
        cells = line.split(",")
        if len(cells) == len(names) and cells[place].isdigit():
            return int(cells[place]) + 1
    return 0


def _written(path: Path) -> float:
    """When a file was last written; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _head(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return stream.read(4096)
    except OSError:
        return ""


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""

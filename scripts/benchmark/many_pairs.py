"""Memory of a data set that grows: read, encoded, and its first batches made, in a process of its own."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from apart import apart
from side_by_side import Finding

from hotfix.models.packaged import cache_folder
from hotfix.models.peak_memory import peak_resident

__all__ = ["run"]

_FEW, _MANY = 60_000, 300_000  # both more than are held in memory
_ALLOWED = 600  # bytes that a pair more may take: its place, length and counts, and its turn


def run(repeats: int) -> list[Finding]:
    """Measure both once; a second look at the larger one finds its tokens kept."""
    with tempfile.TemporaryDirectory() as folder:
        few, many = (_measured(Path(folder), count) for count in (_FEW, _MANY))
        again = _measured(Path(folder), _MANY)
    grown = max(1.0, (many[0] - few[0]) * 1024**3 / (_MANY - _FEW))
    note = f"{_FEW:,} against {_MANY:,} pairs; these encoded in {many[1]:.0f} s, found again in {again[1]:.0f} s"
    ratio = _ALLOWED / grown
    return [Finding("memory of a pair more", "bytes", grown, _ALLOWED, ratio, ratio, ratio, 1.0, 1, note)]


def _measured(folder: Path, count: int) -> tuple[float, float]:
    """Return the peak resident set in GB, and the seconds."""
    path = folder / f"{count}.jsonl"
    if not path.exists():
        with open(path, "w") as file:
            for i in range(count):
                row = {"prefix": f"def f{i}(rows):\n    total = {i}\n    ", "buggy": f"return rows[{i}]\n"}
                file.write(json.dumps({**row, "fixed": f"return rows[{i} - 1] + total\n"}) + "\n")
    # A cache of its own, but for the model.
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    if not (cache / "models").exists():
        (cache / "models").symlink_to(cache_folder() / "models")
    start = time.perf_counter()
    return float(apart(__file__, str(path), HOTFIX_CACHE=str(cache))), time.perf_counter() - start


def _load(path: Path) -> float:
    from hotfix.data import PairFiles

    data = PairFiles(str(path), retain=None)
    loader = data.train_dataloader()
    for _, batch in zip(range(100), loader, strict=False):
        assert batch.pairs is not None
    # Not getrusage's: that of a child begins at what its parent had.
    return peak_resident() / 1024**3


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    sys.stdout.write(f"{_load(parser.parse_args().path)}\n")

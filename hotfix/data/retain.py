"""Retain text: code whose continuation a hotfix must leave as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hotfix.data.reading import read_json_lines
from hotfix.data.schema import row_split
from hotfix.data.stdlib import stdlib_functions
from hotfix.errors import DataError
from hotfix.types import Split

__all__ = ["RetainText", "read_retain"]


class RetainText(NamedTuple):
    """An id and the text."""

    id: str
    text: str


def read_retain(source: str | Sequence[str], split: Split, count: int, seed: int = 0) -> list[RetainText]:
    """Return `count` retain texts of a split, or all that a file has.

    Args:
        source: `stdlib`, the running Python's own standard library; or JSON Lines files with a `text` column, whose
            rows are dealt to the splits 8 : 1 : 1 unless they have a `split` column.
        split: train, validation or test; no text is in two of them.
        count: how many; the standard library has about 3,600, 740 and 1,900 in the three splits.
        seed: which of the standard library's functions.

    Raises:
        DataError: no such file, or no usable row.
    """
    if source == "stdlib":
        return [RetainText(function.id, function.text) for function in stdlib_functions(count, seed, split=split)]
    paths = [source] if isinstance(source, str) else source
    texts = [text for path in paths for text in _read(Path(path), split)]
    if not texts:
        raise DataError(f"no retain text for {split}", ", ".join(paths), hint="add rows with a 'text' column")
    return texts[:count]


def _read(path: Path, split: Split) -> list[RetainText]:
    found = []
    for line, row in read_json_lines(path):
        text = row.get("text")
        if not isinstance(text, str) or not text.strip():
            raise DataError("column 'text' is missing or empty", path, line, "retain text is read from it")
        tenth = line % 10
        own = row_split(row, path, line) or ("validation" if tenth == 8 else "test" if tenth == 9 else "train")
        if own == split:
            found.append(RetainText(str(row.get("id", f"{path.name}:{line}")), text))
    return found

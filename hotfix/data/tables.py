"""Rows of a file of any kind that pairs come in: JSON Lines, JSON, CSV or Parquet, told apart by the file's name."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hotfix.data.reading import open_lines, read_json_lines
from hotfix.errors import DataError

__all__ = ["Row", "read_rows"]

Row = tuple[int, dict[str, Any]]
"""1-based number of the line, or of the row where there are no lines, and column -> value."""

_LONGEST_FIELD = 2**30


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of `.csv`, `.json` (one array of objects), `.parquet` and, under any other name, JSON Lines.

    All but Parquet may be gzipped (`.gz` behind).

    Raises:
        DataError: the file is missing, damaged or not what its name says; names the line.
    """
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    if kind == ".csv":
        return _csv(path)
    if kind == ".json":
        return _json(path)
    if kind == ".parquet":
        return _parquet(path)
    return read_json_lines(path)


def _csv(path: Path) -> Iterator[Row]:
    # Whole source files stand in single fields; csv's own limit is 128 kB.
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(open_lines(path))
    header: list[str] = []
    line = 1
    try:
        for cells in reader:
            if not header:
                header = cells
            elif cells and len(cells) != len(header):
                raise DataError(f"{len(cells)} cells, the header has {len(header)}", path, line, "quote commas")
            elif cells:
                yield line, dict(zip(header, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"not valid CSV: {error}", path, line) from None


def _json(path: Path) -> Iterator[Row]:
    try:
        rows = json.loads("".join(open_lines(path)))
    except json.JSONDecodeError as error:
        raise DataError(
            f"not valid JSON: {error.msg}", path, error.lineno, "one object a line belongs into a .jsonl file"
        ) from None
    if not isinstance(rows, list):
        raise DataError(f"a JSON {type(rows).__name__}, expected an array of objects", path)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"a JSON {type(row).__name__}, expected an object with the row's columns", path, number)
        yield number, row


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            "Parquet needs pyarrow, which is not installed", path, hint="pip install hotfix[data]"
        ) from None
    if not path.is_file():
        raise DataError("no such file", path, hint=f"paths count from the current folder, {Path.cwd()}")
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"not a Parquet file ({error})", path) from None

"""Files of JSON Lines, plain or gzipped, and what is read of them for a split; every complaint names file and line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from hotfix.data.schema import CodePair, parse_row
from hotfix.data.spilled import held
from hotfix.errors import DataError
from hotfix.types import Split

__all__ = ["open_lines", "parse_file", "read_json_lines", "read_pairs"]


def open_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, plain or gzipped (`.gz`), their line breaks kept.

    Raises:
        DataError: no such file, not UTF-8, or not gzip although named so.
    """
    for number, raw in enumerate(_lines(path), start=1):
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"byte {error.object[error.start]:#04x} at column {error.start + 1} is not UTF-8",
                path,
                number,
                "save the file as UTF-8",
            ) from None


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (1-based line number, object) of each line that isn't blank.

    Raises:
        DataError: no such file, not UTF-8, not gzip although named so, or a line that isn't a JSON object.
    """
    for number, text in enumerate(open_lines(path), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(
                f"not valid JSON: {error.msg} at column {error.colno}", path, number, "expected one JSON object a line"
            ) from None
        if not isinstance(row, dict):
            raise DataError(f"a JSON {type(row).__name__}, expected an object with the row's columns", path, number)
        yield number, row


def parse_file(path: Path) -> Iterator[CodePair]:
    """Yield the pair of each line of a JSON Lines file.

    Raises:
        DataError: the file can't be read, or a row isn't a pair.
    """
    for line, row in read_json_lines(path):
        yield parse_row(row, path, line)


def read_pairs(
    paths: Sequence[str | Path], split: Split, parse: Callable[[Path], Iterable[CodePair]] = parse_file
) -> Sequence[CodePair]:
    """Read the pairs of one split from files; rows that name another split are passed over.

    Args:
        paths: the files.
        split: the split.
        parse: a file to its pairs; asked again where an id comes twice.

    Raises:
        DataError: a bad row, an id used twice, or no row left.
    """
    passed_over = 0

    def of_split() -> Iterator[CodePair]:
        nonlocal passed_over
        seen: set[int] = set()
        for path in map(Path, paths):
            for pair in parse(path):
                if pair.split not in (None, split):
                    passed_over += 1
                    continue
                # Of a million ids a hash each; that two of them share one is next to impossible, and looked into.
                if hash(pair.id) in seen:
                    _check_only(pair, paths, split, parse)
                seen.add(hash(pair.id))
                yield pair

    pairs = held(of_split())
    if not pairs:
        names = ", ".join(map(str, paths))
        why = f"all {passed_over} rows name another split" if passed_over else "no rows"
        hint = f"point data.init_args.{split} to a file with rows for it"
        raise DataError(f"nothing to read for {split}: {why}", names, hint=hint)
    return pairs


def _check_only(
    pair: CodePair, paths: Sequence[str | Path], split: Split, parse: Callable[[Path], Iterable[CodePair]]
) -> None:
    """Complain if another pair of the split has the same id."""
    every = (other for path in paths for other in parse(Path(path)) if other.split in (None, split))
    first, *others = islice((other for other in every if other.id == pair.id), 2)
    if others:
        hint = "give each row its own id"
        raise DataError(f"id {pair.id!r} was used before, at {first.source}", pair.source, hint=hint)


def _lines(path: Path) -> Iterator[bytes]:
    if not path.is_file():
        raise DataError(
            "no such file" if not path.exists() else "a folder, expected a file",
            path,
            hint=f"paths count from the current folder, {Path.cwd()}",
        )
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            yield from stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"damaged gzip file ({error})", path, hint="pack it again, or drop the .gz ending") from None
    except OSError as error:
        raise DataError(f"can't be read ({error.strerror or error})", path) from None

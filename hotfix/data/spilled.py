"""Rows that are held in memory while they are few, and in a nameless file while they are many."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from typing import IO, TypeVar

from hotfix.data.records import Records, RecordWriter
from hotfix.errors import StorageError

__all__ = ["MANY", "held"]

MANY = 50_000
"""Rows up to which a list is faster than a file."""

_T = TypeVar("_T")


def held(rows: Iterable[_T], many: int = MANY) -> Sequence[_T]:
    """Take in rows, and keep them so that a million of them need no more memory than `many` do.

    Args:
        rows: anything that can be pickled; read once, as they come.
        many: how many stay in memory.

    Returns:
        A list, or what reads from a temporary file, which goes when the last user of the rows goes.

    Raises:
        StorageError: the disk of the temporary folder is full.

    >>> held(iter("abc"))
    ['a', 'b', 'c']
    >>> spilled = held(iter("abc"), many=2)
    >>> type(spilled).__name__, spilled[1], list(spilled)
    ('Records', 'b', ['a', 'b', 'c'])
    """
    rows = iter(rows)
    first = list(islice(rows, many + 1))
    if len(first) <= many:
        return first
    with _nameless() as file:
        writer = RecordWriter(file)
        for row in chain(first, rows):
            with _told():
                writer.add(pickle.dumps(row, pickle.HIGHEST_PROTOCOL))
        with _told():
            writer.finish()
        return Records(file, pickle.loads)


@contextmanager
def _nameless() -> Iterator[IO[bytes]]:
    """Open a file that nobody else can write to, so its pickles can be trusted; it goes with its last reader."""
    with ExitStack() as stack:
        with _told():
            file = stack.enter_context(tempfile.TemporaryFile(prefix="hotfix-rows-"))
        yield file


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{tempfile.gettempdir()}: many rows are kept in a file while they are used, and it can't be written "
            f"({error.strerror}); free some space, or name another folder with TMPDIR"
        ) from error

"""Many small records in one file, written one behind the other and read by their place without loading the rest.

    record 0 | record 1 | ... | end of each, int64 [N] | numbers, int32 [N, W] | N, W, magic, int64 each

The numbers are what is asked of all records at once; they are read without touching the records.
"""

from __future__ import annotations

import os
import weakref
from array import array
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

__all__ = ["RecordWriter", "Records"]

_MAGIC = 0x31504658_4F48  # "HOXFP1", backwards
_FOOTER = 3 * 8
_T = TypeVar("_T")


class RecordWriter:
    """Writes records; nothing of them stays in memory but 8 + 4 W bytes each.

    Args:
        file: opened for writing, at its beginning.
        width: how many numbers go with each record, W.
    """

    def __init__(self, file: IO[bytes], width: int = 0) -> None:
        self._file = file
        self._width = width
        self._end = 0
        self._ends = array("q")
        self._numbers = array("i")

    def add(self, record: bytes, numbers: Sequence[int] = ()) -> None:
        """Append a record with its W numbers."""
        assert len(numbers) == self._width
        self._file.write(record)
        self._end += len(record)
        self._ends.append(self._end)
        self._numbers.extend(numbers)

    def finish(self) -> None:
        """Write what finds the records again; there is nothing to read before."""
        # Numbers are read as what they are, so they have to stand where such numbers may.
        self._file.write(b"\0" * (-self._end % 8))
        for numbers in (self._ends, self._numbers, array("q", (len(self._ends), self._width, _MAGIC))):
            self._file.write(numbers.tobytes())
        self._file.flush()


class Records(Sequence[_T], Generic[_T]):
    """The records of a file, each read and made what it stands for when it is asked for.

    Args:
        file: its path, or an open file, which may be closed afterwards.
        decode: a record's bytes to what it stands for.

    Attributes:
        numbers: int32 [N, W].

    Raises:
        ValueError: it isn't a whole file of records.

    >>> import tempfile
    >>> with tempfile.TemporaryFile() as file:
    ...     writer = RecordWriter(file, width=1)
    ...     for word in (b"one", b"three"):
    ...         writer.add(word, [len(word)])
    ...     writer.finish()
    ...     records = Records(file, bytes.decode)
    >>> len(records), records[1], records.numbers.tolist()
    (2, 'three', [[3], [5]])
    """

    def __init__(self, file: Path | IO[bytes], decode: Callable[[bytes], _T]) -> None:
        with open(file, "rb") if isinstance(file, Path) else nullcontext(file) as opened:
            # Only the numbers are read through the mapping: what was read of one counts as the process's memory.
            data = np.memmap(opened, dtype=np.uint8, mode="r")
            count, width, magic = data[-_FOOTER:].view(np.int64).tolist() if len(data) >= _FOOTER else (0, 0, 0)
            start = len(data) - _FOOTER - count * (8 + 4 * width)
            if magic != _MAGIC or start < 0:
                raise ValueError("not a file of records, or not all of it")
            self._file = os.dup(opened.fileno())
        weakref.finalize(self, os.close, self._file)
        middle = start + 8 * count
        self._decode = decode
        self._ends: npt.NDArray[np.int64] = data[start:middle].view(np.int64)
        self.numbers: npt.NDArray[np.int32] = data[middle:-_FOOTER].view(np.int32).reshape(count, width)

    def __len__(self) -> int:
        """How many records."""
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> _T: ...
    @overload
    def __getitem__(self, place: slice) -> list[_T]: ...
    def __getitem__(self, place: int | slice) -> _T | list[_T]:
        """Return one, or those of a slice."""
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        at = range(len(self))[place]
        start, stop = int(self._ends[at - 1]) if at else 0, int(self._ends[at])
        # By its place, not by a position that several readers, or processes after a fork, would share.
        return self._decode(os.pread(self._file, stop - start, start))

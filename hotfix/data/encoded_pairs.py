"""All pairs of a split as tokens: a few in a list, many encoded by all processors and kept on the disk.

The file is found again by the tokenizer, the encoder's settings and the pairs, so a second run encodes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from hotfix import __version__
from hotfix.atomic import atomic_file
from hotfix.data.encode import Branch, EncodedPair, OverlongError, PairEncoder
from hotfix.data.packing import count_tokens
from hotfix.data.records import Records, RecordWriter
from hotfix.data.schema import CodePair
from hotfix.data.spilled import MANY
from hotfix.errors import DataError
from hotfix.models.kept_files import make_room, used
from hotfix.models.packaged import cache_folder
from hotfix.types import SCOPES, Side, TokenScope

__all__ = ["COUNTED", "Encoded", "encode_pairs", "token_numbers"]

log = logging.getLogger(__name__)

COUNTED: tuple[tuple[Side, TokenScope], ...] = tuple((side, scope) for side in ("fixed", "buggy") for scope in SCOPES)
"""What the columns of `token_numbers` behind the first count."""

_T = TypeVar("_T")
_Found: TypeAlias = tuple[bytes, list[int]] | bool
_ROOM = 16 << 30  # bytes; of all files of encoded pairs together
_CHUNK = 1_000
_HEAD = struct.Struct("8i")


class Encoded(NamedTuple):
    """Pairs as tokens.

    Attributes:
        pairs: those that fit.
        places: theirs among the pairs that were given.
    """

    pairs: Sequence[EncodedPair]
    places: Sequence[int]


def token_numbers(pairs: Sequence[EncodedPair]) -> npt.NDArray[np.int32]:
    """Return the packed length of each pair and its predicted tokens as in `COUNTED`: [N, 7]."""
    if isinstance(pairs, Records):
        return pairs.numbers[:, 1:]
    return np.array([_numbers(pair) for pair in pairs], dtype=np.int32).reshape(-1, 1 + len(COUNTED))


def encode_pairs(encoder: PairEncoder, pairs: Sequence[CodePair], many: int = MANY) -> Encoded:
    """Encode pairs; one that doesn't fit is an error, or left out where the encoder's `overlong` is `drop`.

    Args:
        encoder: of one tokenizer.
        pairs: any number.
        many: how many are encoded here and now and held in memory.

    Raises:
        DataError: a pair can't be encoded.
        StorageError: there are more than `many`, and the cache folder can't be written.
    """
    if len(pairs) <= many:
        kept = [(place, found) for place, pair in enumerate(pairs) if (found := _encoded(encoder, pair)) is not None]
        return Encoded([found for _, found in kept], [place for place, _ in kept])
    path = cache_folder() / "encoded_pairs" / f"{_key(encoder, pairs)}.records"
    records = _kept(path)
    if records is None:
        log.info("encoding %d pairs, once", len(pairs))
        _write(path, encoder, pairs)
        records = Records(path, _from_bytes)
    return Encoded(records, records.numbers[:, 0].tolist())


def _encoded(encoder: PairEncoder, pair: CodePair) -> EncodedPair | None:
    try:
        return encoder(pair)
    except OverlongError:
        if encoder.overlong == "drop":
            return None
        raise


def _write(path: Path, encoder: PairEncoder, pairs: Sequence[CodePair]) -> None:
    make_room(path.parent, 0, _ROOM, "*.records")
    with atomic_file(path) as partial, open(partial, "wb") as file:
        writer = RecordWriter(file, 2 + len(COUNTED))
        place = 0
        for chunk in _in_parallel(encoder, _cut(pairs, _CHUNK)):
            for found in chunk:
                if isinstance(found, tuple):
                    record, numbers = found
                    writer.add(record, (place, *numbers))
                elif found:
                    encoder(pairs[place])  # says itself what is wrong
                place += 1
        writer.finish()


def _in_parallel(encoder: PairEncoder, chunks: Iterable[Sequence[CodePair]]) -> Iterator[list[_Found]]:
    """Encode chunks on every processor; at most a few wait to be written."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # A fork would take along the threads' locks of everything that is loaded here.
    with ProcessPoolExecutor(count, get_context("spawn"), initializer=_start, initargs=(encoder,)) as pool:
        for some in _cut(chunks, 4 * count):
            yield from pool.map(_chunk, some)


def _cut(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Take items by so many."""
    items = iter(items)
    while chunk := list(islice(items, size)):
        yield chunk


_encoder_here: PairEncoder | None = None


def _start(encoder: PairEncoder) -> None:
    """Give a worker its encoder once; it holds nothing else."""
    global _encoder_here
    _encoder_here = encoder


def _chunk(pairs: Sequence[CodePair]) -> list[_Found]:
    """Encode some pairs in a worker: a record and its numbers, False for one left out, True for one that is wrong."""
    assert _encoder_here is not None
    found: list[_Found] = []
    for pair in pairs:
        try:
            encoded = _encoded(_encoder_here, pair)
        except DataError:
            found.append(True)
        else:
            found.append(False if encoded is None else (_to_bytes(encoded), _numbers(encoded)))
    return found


def _numbers(pair: EncodedPair) -> list[int]:
    counts = count_tokens(pair)
    return [pair.packed_length, *(counts[key] for key in COUNTED)]


def _to_bytes(pair: EncodedPair) -> bytes:
    """Eight numbers, the ids, a byte of each branch token's mark, and the texts."""
    name, residue = pair.id.encode(), pair.residue.encode("utf-8", "surrogatepass")
    fixed, buggy = pair.fixed, pair.buggy
    sizes = (len(pair.shared), len(fixed.ids), len(buggy.ids))
    head = _HEAD.pack(pair.prompt, *sizes, fixed.statement, buggy.statement, len(name), len(residue))
    ids = np.array([*pair.shared, *fixed.ids, *buggy.ids], dtype=np.int32).tobytes()
    return b"".join((head, ids, bytes([*fixed.edited, *buggy.edited]), name, residue))


def _from_bytes(record: bytes) -> EncodedPair:
    prompt, shared, fixed, buggy, fixed_end, buggy_end, name, residue = _HEAD.unpack_from(record)
    total = shared + fixed + buggy
    ids = np.frombuffer(record, np.int32, total, _HEAD.size).tolist()
    at = _HEAD.size + 4 * total
    marks = [bool(mark) for mark in record[at : at + fixed + buggy]]
    at += fixed + buggy
    return EncodedPair(
        id=record[at : at + name].decode(),
        shared=ids[:shared],
        prompt=prompt,
        residue=record[at + name : at + name + residue].decode("utf-8", "surrogatepass"),
        fixed=Branch(ids[shared : shared + fixed], marks[:fixed], fixed_end),
        buggy=Branch(ids[shared + fixed :], marks[fixed:], buggy_end),
    )


def _kept(path: Path) -> Records[EncodedPair] | None:
    try:
        records = Records(path, _from_bytes)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s is damaged (%s) and is written again", path, error)
        return None
    used(path)
    return records


def _key(encoder: PairEncoder, pairs: Sequence[CodePair]) -> str:
    """Digest everything that the encodings follow from."""
    tokenizer, prompt = encoder.tokenizer, encoder.prompt
    total = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
    settings = (encoder.max_length, encoder.suffix_tokens, encoder.overlong, type(prompt).__name__, vars(prompt))
    starts = (tokenizer.bos_token_id, tokenizer.eos_token_id, getattr(tokenizer, "chat_template", None))
    total.update(repr((__version__, settings, starts)).encode())
    for pair in pairs:
        total.update(repr((pair.id, pair.prefix, pair.buggy, pair.fixed, pair.suffix, pair.edits)).encode())
    return total.hexdigest()

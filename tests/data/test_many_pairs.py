"""Many pairs: files of records, rows that spill to the disk, encodings that are kept; the same as a few in a list."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hotfix.data import PairFiles, encoded_pairs, spilled
from hotfix.data.encode import PairEncoder
from hotfix.data.encoded_pairs import encode_pairs, token_numbers
from hotfix.data.loader import PairLoader
from hotfix.data.records import Records, RecordWriter
from hotfix.data.schema import CodePair
from hotfix.data.spilled import held
from hotfix.errors import DataError, StorageError
from hotfix.models.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def pair(number: int, text: str = "") -> CodePair:
    return CodePair(f"id-{number}", f"# é {number}\n    x = ", f"old{text}({number})", f"new{text}({number}, 1)")


PAIRS = [pair(number) for number in range(30)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOTFIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "encoded_pairs"


def test_records_come_back_in_any_order(tmp_path: Path) -> None:
    wanted = [b"", b"one", b"\0" * 1000, b"", "é".encode()]
    with open(tmp_path / "r", "wb") as file:
        writer = RecordWriter(file, width=2)
        for place, record in enumerate(wanted):
            writer.add(record, (place, -len(record)))
        writer.finish()
    records = Records(tmp_path / "r", bytes)
    assert list(records) == wanted
    assert [records[i] for i in (4, -5, 2, -1)] == [wanted[i] for i in (4, -5, 2, -1)]
    assert records[1:4:2] == wanted[1:4:2]
    assert records.numbers.tolist() == [[place, -len(record)] for place, record in enumerate(wanted)]
    with pytest.raises(IndexError):
        records[5]


def test_records_that_were_read_are_no_memory_of_the_process_and_the_file_goes_with_them(tmp_path: Path) -> None:
    count, size = 2_000, 20_000
    with open(tmp_path / "r", "wb") as file:
        writer = RecordWriter(file)
        for _ in range(count):
            writer.add(b"x" * size)
        writer.finish()
    opened = set(os.listdir("/proc/self/fd"))
    with open(tmp_path / "r", "rb") as file:
        records = Records(file, len)
    (tmp_path / "r").unlink()
    before = _resident()
    assert sum(records) == count * size
    assert _resident() - before < count * size / 4
    assert len(set(os.listdir("/proc/self/fd")) - opened) > 0
    del records
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == opened


def _resident() -> int:
    """Bytes, file pages that are mapped among them."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("cut", [1, 8, 24, 30, 100])
def test_a_cut_file_is_no_file_of_records(tmp_path: Path, cut: int) -> None:
    with open(tmp_path / "r", "wb") as file:
        writer = RecordWriter(file)
        for _ in range(5):
            writer.add(b"abcdefgh")
        writer.finish()
    whole = (tmp_path / "r").read_bytes()
    (tmp_path / "r").write_bytes(whole[:-cut])
    with pytest.raises(ValueError, match="not a file of records"):
        Records(tmp_path / "r", bytes)


def test_spilled_rows_are_the_rows() -> None:
    rows = held(iter(PAIRS), many=7)
    assert not isinstance(rows, list)
    assert list(rows) == PAIRS
    assert rows[3:9:2] == PAIRS[3:9:2]
    assert len(rows) == len(PAIRS)


def test_rows_up_to_the_limit_stay_in_a_list() -> None:
    assert held(iter(PAIRS), many=30) == PAIRS


def test_the_file_leaves_no_name_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spilled.tempfile, "tempdir", str(tmp_path))
    rows = held(iter(PAIRS), many=2)
    assert list(tmp_path.iterdir()) == []
    assert rows[29] == PAIRS[29]


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: RecordWriter, record: bytes, numbers: object = ()) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RecordWriter, "add", full)
    with pytest.raises(StorageError, match=r"No space left on device.*TMPDIR"):
        held(iter(PAIRS), many=2)


def test_an_error_in_the_rows_is_not_the_disk_s() -> None:
    def rows() -> Iterator[CodePair]:
        yield from PAIRS
        raise OSError(5, "the network is gone")

    with pytest.raises(OSError, match="the network is gone"):
        held(rows(), many=2)


def test_many_are_encoded_as_few_are() -> None:
    encoder = PairEncoder(TOKENIZER)
    few, many = encode_pairs(encoder, PAIRS), encode_pairs(encoder, PAIRS, many=3)
    assert not isinstance(many.pairs, list)
    assert list(many.pairs) == few.pairs
    assert list(many.places) == list(few.places) == list(range(30))
    assert np.array_equal(token_numbers(many.pairs), token_numbers(few.pairs))


def test_those_too_long_are_left_out_and_the_places_say_which() -> None:
    encoder = PairEncoder(TOKENIZER, max_length=60, overlong="drop")
    pairs = [*PAIRS[:5], pair(99, "x" * 200), *PAIRS[5:8]]
    few, many = encode_pairs(encoder, pairs), encode_pairs(encoder, pairs, many=3)
    assert list(many.places) == list(few.places) == [0, 1, 2, 3, 4, 6, 7, 8]
    assert list(many.pairs) == few.pairs


def test_one_that_is_wrong_is_told_as_among_few() -> None:
    encoder = PairEncoder(TOKENIZER, max_length=60)
    pairs = [*PAIRS[:5], replace(pair(99, "x" * 200), source="p.jsonl:6")]
    with pytest.raises(DataError) as few:
        encode_pairs(encoder, pairs)
    with pytest.raises(DataError, match=r"p\.jsonl:6: pair 'id-99'") as many:
        encode_pairs(encoder, pairs, many=3)
    assert str(many.value) == str(few.value)


def test_they_are_encoded_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = PairEncoder(TOKENIZER)
    first = encode_pairs(encoder, PAIRS, many=3)
    monkeypatch.setattr(encoded_pairs, "_in_parallel", lambda *args: pytest.fail("encoded again"))
    assert list(encode_pairs(PairEncoder(TOKENIZER), list(PAIRS), many=3).pairs) == list(first.pairs)
    for other in (PairEncoder(TOKENIZER, max_length=99), PairEncoder(TOKENIZER, suffix_tokens=3)):
        with pytest.raises(pytest.fail.Exception, match="encoded again"):
            encode_pairs(other, PAIRS, many=3)
    with pytest.raises(pytest.fail.Exception, match="encoded again"):
        encode_pairs(encoder, [*PAIRS[:-1], pair(7, "y")], many=3)


def test_a_damaged_file_is_written_again(cache: Path) -> None:
    first = encode_pairs(PairEncoder(TOKENIZER), PAIRS, many=3)
    expected = list(first.pairs)
    [path] = cache.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    assert list(encode_pairs(PairEncoder(TOKENIZER), PAIRS, many=3).pairs) == expected


def test_batches_are_the_same() -> None:
    encoder = PairEncoder(TOKENIZER)
    few, many = (encode_pairs(encoder, PAIRS, many=many).pairs for many in (99, 3))
    for one, other in zip(PairLoader(few, [], 8), PairLoader(many, [], 8), strict=True):
        assert one.keys == other.keys
        assert one.counts == other.counts
        assert one.pairs is not None
        assert other.pairs is not None
        assert one.pairs.input_ids.equal(other.pairs.input_ids)


def test_a_data_set_of_many_is_that_of_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [f'{{"prefix": "x{i} = ", "buggy": "a{i}", "fixed": "b{i}", "task": "t{i % 9}"}}' for i in range(40)]
    path.write_text("\n".join(rows))

    def data() -> PairFiles:
        made = PairFiles(str(path), str(path), str(path), tokenizer_name="tiny", retain=None)
        made.tokenizer = TOKENIZER
        return made

    few = data()
    expected = {split: list(few.pairs(split)) for split in ("train", "validation", "test")}
    tokens = list(few.encoded("train"))
    for module in (spilled.held, encoded_pairs.encode_pairs):
        monkeypatch.setattr(module, "__defaults__", (3,))
    many = data()
    assert not isinstance(many.pairs("train"), list)
    assert {split: list(many.pairs(split)) for split in ("train", "validation", "test")} == expected
    assert list(many.encoded("train")) == tokens


def test_an_id_used_twice_is_found_among_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spilled.held, "__defaults__", (3,))
    path = tmp_path / "pairs.jsonl"
    ids = [*range(20), 4]
    path.write_text("\n".join(f'{{"id": "{i}", "prefix": "x = ", "buggy": "a", "fixed": "b"}}' for i in ids))
    with pytest.raises(DataError, match=r"pairs\.jsonl:21: id '4' was used before, at .*pairs\.jsonl:5"):
        PairFiles(str(path), tokenizer_name="tiny").pairs("train")


_READ = """
import sys, resource
from hotfix.data.spilled import held
from hotfix.data.schema import CodePair
rows = held(CodePair(str(i), "p" * 2000, f"a{i}", f"b{i}") for i in range(int(sys.argv[1])))
assert sum(len(row.prefix) for row in rows) == 2000 * len(rows)
with open("/proc/self/smaps_rollup") as file:
    print(next(line.split()[1] for line in file if line.startswith("Anonymous")))
"""


def test_memory_does_not_grow_with_the_rows() -> None:
    def kilobytes(count: int) -> int:
        done = subprocess.run([sys.executable, "-c", _READ, str(count)], capture_output=True, text=True, check=True)
        return int(done.stdout)

    few, many = kilobytes(60_000), kilobytes(180_000)
    assert many - few < 20_000, "120,000 rows of 2 kB are 240 MB; of each only its end, 8 bytes, stays"

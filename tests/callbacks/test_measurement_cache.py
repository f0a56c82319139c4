"""Records are read back as they were written, and only for the same key."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from hotfix.callbacks.measurement_cache import MeasurementCache, code_digest

RECORDS: list[dict[str, Any]] = [{"p": 0.1 + 0.2, "verdicts": ["fixed", "é\n"]}, {"p": 1e-300, "verdicts": []}]
PARTS = {"base": "abc", "seed": 0, "examples": [["a", ["x", 1]]]}


@pytest.fixture
def cache(tmp_path: Path) -> MeasurementCache:
    return MeasurementCache(tmp_path / "measurements")


def test_reads_back_exactly_what_was_written(cache: MeasurementCache) -> None:
    key = cache.key(PARTS)
    assert cache.read(key, 2) is None
    cache.write(key, RECORDS)
    assert cache.read(key, 2) == RECORDS


def test_another_number_of_records_is_not_taken(cache: MeasurementCache) -> None:
    cache.write("k", RECORDS)
    assert cache.read("k", 3) is None
    assert cache.read("k", 1) is None


@pytest.mark.parametrize("change", [{"base": "abd"}, {"seed": 1}, {"examples": [["a", ["x", 2]]]}, {"more": None}])
def test_the_key_depends_on_every_part(cache: MeasurementCache, change: dict[str, Any]) -> None:
    assert cache.key(PARTS) == cache.key(dict(reversed(PARTS.items())))
    assert cache.key({**PARTS, **change}) != cache.key(PARTS)


def test_the_key_depends_on_the_versions(cache: MeasurementCache, monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache.key(PARTS)
    monkeypatch.setattr("hotfix.callbacks.measurement_cache.version", lambda name: "0.0")
    assert cache.key(PARTS) != before


@pytest.mark.parametrize("file", ["tasks/one.py", "functional.py"])
def test_the_key_depends_on_the_code_that_measures(
    cache: MeasurementCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    keys = []
    for source in ("x = 1\n", "x = 2\n"):
        (tmp_path / "hotfix" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hotfix" / file).write_text(source)
        monkeypatch.setattr("hotfix.callbacks.measurement_cache._PACKAGE", tmp_path / "hotfix")
        code_digest.cache_clear()
        keys.append(cache.key(PARTS))
    code_digest.cache_clear()
    assert keys[0] != keys[1]


@pytest.mark.parametrize("content", [b'{"p": 0.3', b"\xff\xfe\n{}", b'{"p": 1}\nnot json\n'])
def test_a_damaged_file_is_measured_again_and_said_so(
    cache: MeasurementCache, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    cache.write("k", RECORDS)
    [path] = (tmp_path / "measurements").iterdir()
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert cache.read("k", 2) is None
    assert f"{path} is damaged" in caplog.text
    assert "is measured again" in caplog.text
    cache.write("k", RECORDS)
    assert cache.read("k", 2) == RECORDS

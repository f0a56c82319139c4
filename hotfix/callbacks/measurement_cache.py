"""Records of measurements that need not be repeated: the base model's, by everything they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hotfix
from hotfix.metrics.base import Record
from hotfix.models.packaged import cache_folder
from hotfix.report.results import to_json, write_records

__all__ = ["MeasurementCache", "code_digest"]

_PACKAGE = Path(hotfix.__file__).parent
_MEASURING = ("data", "generation", "metrics", "models", "sandbox", "tasks", "functional.py")

log = logging.getLogger(__name__)


class MeasurementCache:
    """A folder of record files named by the digest of what they were measured with.

    Args:
        folder: where; by default `measurements` in the cache folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or cache_folder() / "measurements"

    def key(self, parts: Mapping[str, Any]) -> str:
        """Digest everything the records depend on; what computes them is added."""
        content = {
            **parts,
            "versions": {name: version(name) for name in ("torch", "transformers")},
            "code": code_digest(),
        }
        return hashlib.sha256(json.dumps(to_json(content), sort_keys=True, default=repr).encode()).hexdigest()

    def read(self, key: str, count: int) -> list[Record] | None:
        """Return the records, or None where there are none or they are damaged."""
        path = self._path(key)
        try:
            records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s is damaged (%s) and is measured again", path, error)
            return None
        return records if len(records) == count else None

    def write(self, key: str, records: Sequence[Record]) -> None:
        """Keep records."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_records(self._path(key), records)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.jsonl"


@cache
def code_digest() -> str:
    """Digest the sources of what tasks compute with, so that a record is never read by code that makes another."""
    digest = hashlib.sha256()
    for name in _MEASURING:
        place = _PACKAGE / name
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()

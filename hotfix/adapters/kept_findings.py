"""What was found in the base's pass over the training rows, kept on the disk for the next run on the same rows.

The pass depends on the base and on the rows alone, so the arms and seeds of a study, and a run that is started again
with another learning rate, find it done.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hotfix import __version__
from hotfix.errors import StorageError
from hotfix.models.kept_files import keep, used
from hotfix.models.packaged import cache_folder

__all__ = ["KeptFindings"]

log = logging.getLogger(__name__)
_ROOM = 4 << 30  # bytes; of all findings together


class KeptFindings:
    """A folder of findings, named by the digest of all that they depend on.

    Args:
        base: what the base is: its fingerprint, its precision, its device.
        writes: whether new findings are written; of several processes one does.
        folder: where; by default `first_pass` in the cache folder.
        room: bytes that all files may take; the longest unused are deleted first.
    """

    def __init__(
        self, base: Mapping[str, str], writes: bool = True, folder: Path | None = None, room: int = _ROOM
    ) -> None:
        versions = {"hotfix": __version__, **{name: version(name) for name in ("torch", "transformers")}}
        self._about = {**base, **versions, "kernels": torch.backends.cpu.get_cpu_capability()}
        self._writes, self._room = writes, room
        self._folder = folder or cache_folder() / "first_pass"

    def read(self, rows: str, finder: str) -> dict[str, Tensor] | None:
        """Return what was found, or None where nothing is kept or it is damaged.

        Args:
            rows: digest of the rows that were run.
            finder: who looked, and with which settings.
        """
        path = self._path(rows, finder)
        try:
            found = load_file(path)
            used(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            log.warning("%s is damaged (%s) and is computed again", path, error)
            return None
        return found

    def write(self, rows: str, finder: str, found: Mapping[str, Tensor]) -> None:
        """Keep what was found; a disk that has no room for it costs the next run its time, not this one its end."""
        size = sum(tensor.nbytes for tensor in found.values())
        if not self._writes or size > self._room:
            return
        try:
            keep(self._path(rows, finder), found, self._room)
        except (OSError, StorageError) as error:
            log.warning("the base's pass over the training rows can't be kept: %s", error)

    def _path(self, rows: str, finder: str) -> Path:
        content = json.dumps({**self._about, "rows": rows, "finder": finder}, sort_keys=True)
        return self._folder / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.safetensors"

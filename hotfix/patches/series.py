"""Patches of many requests, each computed by itself: a folder each, found again by what it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hotfix.data.edits import EditRequest
from hotfix.errors import PatchError
from hotfix.patches.base import Patch
from hotfix.patches.store import load_patch, save_patch

__all__ = ["PatchSeries"]


class PatchSeries:
    """A folder of patches by request; processes share it.

    Args:
        folder: that holds them; made when the first is saved.
        requests: whose patches they are.
        depends_on: all else that a patch depends on, the base's fingerprint included; what was made with other settings
            is not found.
    """

    def __init__(self, folder: Path, requests: Sequence[EditRequest], depends_on: Sequence[object]) -> None:
        context = json.dumps([*depends_on], sort_keys=True, default=repr)
        self._places = {r.id: folder / _digest(context, r.id, r.prompt, r.target) for r in requests}

    def has(self, request_id: str) -> bool:
        """Whether a request's patch is there, whole."""
        try:
            load_patch(self._places[request_id])
        except PatchError:
            return False
        return True

    def save(self, request_id: str, patch: Patch) -> None:
        """Keep a request's patch."""
        place = self._places[request_id]
        place.parent.mkdir(parents=True, exist_ok=True)
        save_patch(patch, place)

    def cost(self, request_id: str) -> dict[str, Any]:
        """Return what making a request's patch cost, as its provenance says, without reading its weights."""
        try:
            told = json.loads((self._places[request_id] / "patch.json").read_text(encoding="utf-8"))
            return {name: value for name, value in told["results"]["edit"].items() if value is not None}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def load(self, request_id: str) -> Patch:
        """Return a request's patch.

        Raises:
            PatchError: it was never computed, or is damaged.
        """
        return load_patch(self._places[request_id])


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

"""Reads the file that says which made-up secrets were planted in a model's training text, and which never were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from hotfix.errors import DataError
from hotfix.types import SPLITS, Split

__all__ = ["Canary", "CanaryFile", "read_canaries"]

_LAYOUT = '{"canaries": [{"prompt": "...", "secret": "..."}, ...], "decoys": ["...", ...]}'


class Canary(NamedTuple):
    """A secret, the text it was planted behind, and the split it belongs to, if any."""

    prompt: str
    secret: str
    split: Split | None


class CanaryFile(NamedTuple):
    """The canaries, and texts of the same kind that were not planted."""

    canaries: list[Canary]
    decoys: list[str]


def read_canaries(path: Path) -> CanaryFile:
    """Read and check the file.

    Raises:
        DataError: it can't be read, isn't laid out as expected, or plants one of its decoys.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"can't be read ({error.strerror})", path, hint="name the file of the planted canaries"
        ) from error
    except ValueError as error:
        raise DataError(f"not JSON ({error})", path, hint=f"expected {_LAYOUT}") from error
    rows, decoys = (content.get(key) if isinstance(content, dict) else None for key in ("canaries", "decoys"))
    if not (isinstance(rows, list) and rows and isinstance(decoys, list) and decoys):
        raise DataError("'canaries' and 'decoys' must be lists that aren't empty", path, hint=f"expected {_LAYOUT}")
    canaries = [_canary(row, number, path) for number, row in enumerate(rows, start=1)]
    for number, decoy in enumerate(decoys, start=1):
        if not isinstance(decoy, str) or not decoy:
            raise DataError(f"decoy {number} is {decoy!r}, expected text", path, hint=f"expected {_LAYOUT}")
    both = {canary.secret for canary in canaries} & set(decoys)
    if both:
        raise DataError(f"{min(both)!r} is a planted secret and a decoy", path, hint="take it out of 'decoys'")
    return CanaryFile(canaries, list(dict.fromkeys(decoys)))


def _canary(row: Any, number: int, path: Path) -> Canary:  # noqa: ANN401  whatever the file holds
    named = row if isinstance(row, dict) else {}
    prompt, secret, split = named.get("prompt"), named.get("secret"), named.get("split")
    if not isinstance(prompt, str) or not isinstance(secret, str) or not secret:
        raise DataError(
            f"canary {number} needs a 'prompt' and a 'secret' that are text", path, hint=f"expected {_LAYOUT}"
        )
    if split is not None and split not in SPLITS:
        raise DataError(f"split {split!r} of canary {number} is not one of {', '.join(SPLITS)}", path)
    return Canary(prompt, secret, split)

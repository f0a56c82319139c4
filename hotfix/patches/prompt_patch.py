"""A hotfix of the prompt: no weights, a template and the comments that were made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hotfix.errors import PatchError
from hotfix.patches.base import Patch, Provenance, check_base

__all__ = ["PromptPatch"]

_FILE = "prompt.json"


class PromptPatch(Patch):
    """Comments by the kind of bug that they warn of; the model stays as it is.

    Args:
        provenance: where it comes from.
        folder: with `prompt.json`.
        content: `template`, `language`, `shows_fixed` and `comments` (kind of bug -> text); one of the two is given.
    """

    def __init__(
        self, provenance: Provenance, folder: Path | None = None, content: Mapping[str, Any] | None = None
    ) -> None:
        self.provenance = provenance
        self.content = dict(content or {}) if folder is None else _read(folder / _FILE)

    def apply(self, model: nn.Module) -> nn.Module:
        """Return the model itself, after checking that it is the one that was measured."""
        check_base(self.provenance, model)
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Return the model itself."""
        return model

    def save(self, folder: Path) -> None:
        """Write the template and the comments."""
        text = json.dumps(self.content, indent=2, ensure_ascii=False, sort_keys=True)
        (folder / _FILE).write_text(text + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PatchError(f"{path}: can't be read ({error}); make the patch again, or restore the file") from error
    if not isinstance(content, dict) or not isinstance(content.get("template"), str):
        raise PatchError(f"{path}: expected an object with a template; make the patch again, or restore the file")
    return content

"""A folder to a patch and back: `patch.json` beside the weights, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

from hotfix.atomic import atomic_folder, recover
from hotfix.errors import PatchError
from hotfix.patches.adapter_patch import AdapterPatch
from hotfix.patches.base import Patch, Provenance
from hotfix.patches.codebook import Codebook
from hotfix.patches.prompt_patch import PromptPatch
from hotfix.patches.weight_delta import WeightDelta
from hotfix.report.results import to_json

__all__ = ["load_patch", "save_patch"]

_KINDS: Mapping[str, Callable[[Provenance, Path], Patch]] = {
    "adapter": AdapterPatch,
    "codebook": Codebook,
    "prompt": PromptPatch,
    "weights": WeightDelta,
}
_FILE = "patch.json"


def save_patch(patch: Patch, folder: Path) -> None:
    """Save a patch; an older one of the same name is replaced only when the new one is whole.

    Raises:
        StorageError: it can't be written.
    """
    kind = next(name for name, made in _KINDS.items() if made is type(patch))
    with atomic_folder(folder) as partial:
        patch.save(partial)
        described = {"kind": kind, **patch.provenance.as_dict()}
        (partial / _FILE).write_text(json.dumps(to_json(described), indent=2) + "\n", encoding="utf-8")


def load_patch(folder: Path) -> Patch:
    """Load a patch.

    Raises:
        PatchError: no patch there, or a damaged one.
    """
    recover(folder)
    try:
        described = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        kind = described.pop("kind")
        known = {field.name for field in fields(Provenance)}
        told = {k: v for k, v in described.items() if k in known}
        return _KINDS[kind](Provenance(**{**told, "gates": tuple(told.get("gates", ()))}), folder)
    except FileNotFoundError:
        raise PatchError(f"{folder}: no {_FILE} there; expected a run's patch folder, as runs/lora/patch") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PatchError(f"{folder / _FILE}: damaged ({error}); fit the patch again, or restore the file") from error

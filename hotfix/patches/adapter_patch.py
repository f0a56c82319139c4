"""A peft adapter as a patch, in peft's own layout: plain `PeftModel.from_pretrained` loads the folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

from peft import PeftModel
from safetensors import SafetensorError, safe_open
from torch import nn

from hotfix.errors import PatchError
from hotfix.models.fingerprint import fingerprint
from hotfix.patches.base import Patch, Provenance

__all__ = ["AdapterPatch", "check_base"]


class AdapterPatch(Patch):
    """Adapter weights in a folder, or still on the model that they were trained on.

    Args:
        provenance: where it comes from.
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        model: that has the adapter on; one of the two is given.
    """

    def __init__(self, provenance: Provenance, folder: Path | None = None, model: PeftModel | None = None) -> None:
        self.provenance = provenance
        self._folder, self._model = folder, model

    def apply(self, model: nn.Module) -> PeftModel:
        """Wrap the model with the saved adapter, switched on and frozen."""
        check_base(self.provenance, model)
        if self._folder is None:
            raise PatchError("this patch was not saved yet; save it, then apply it")
        try:
            # Opened first: peft wraps the model before it reads the weights, and would leave it half wrapped.
            with safe_open(self._folder / "adapter_model.safetensors", "pt"):
                pass
            return PeftModel.from_pretrained(model, str(self._folder)).eval()
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise PatchError(f"{self._folder}: the adapter can't be loaded ({error})") from error

    def revert(self, model: nn.Module) -> nn.Module:
        """Take the adapter's layers out."""
        if not isinstance(model, PeftModel):
            raise PatchError(f"{type(model).__name__} has no adapter on")
        return cast("nn.Module", model.unload())

    def save(self, folder: Path) -> None:
        """Write peft's files."""
        if self._model is None:
            raise PatchError("this patch has no model to save the adapter of")
        config = self._model.peft_config["default"]
        config.base_model_name_or_path = self.provenance.base_model
        # Never the embeddings: peft saves them when it can't reach a hub to ask whether they were resized.
        self._model.save_pretrained(str(folder), save_embedding_layers=False)
        card = folder / "README.md"
        if card.exists():
            card.write_text(_without_paths(card.read_text(encoding="utf-8")), encoding="utf-8")


def check_base(provenance: Provenance, model: nn.Module) -> None:
    """Refuse a model that the patch was not made for.

    Raises:
        PatchError: the fingerprints differ.
    """
    found = fingerprint(model)
    if found != provenance.base_fingerprint:
        raise PatchError(
            f"the patch was made for {provenance.base_model} (weights {provenance.base_fingerprint[:12]}), but this "
            f"model's weights are {found[:12]}; load that base model, or fit the patch again on this one"
        )


def _without_paths(card: str) -> str:
    """Leave the model's name in the card, not the folders of the machine that made it."""
    return re.sub(r"(?<![\w:/])/[^\s\"']+/([^\s/\"']+)", r"\1", card)

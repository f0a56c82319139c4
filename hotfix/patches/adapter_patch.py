"""A peft adapter as a patch, in peft's own layout: plain `PeftModel.from_pretrained` loads the folder."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

from peft import PeftModel
from safetensors import SafetensorError, safe_open
from torch import nn

from hotfix.errors import PatchError
from hotfix.patches.base import Patch, Provenance, check_base

__all__ = ["AdapterPatch"]


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
        # A prefix is in no layer, so there is nothing to take out.
        return (
            model.get_base_model() if model.active_peft_config.is_prompt_learning else cast("nn.Module", model.unload())
        )

    def reference(self, model: nn.Module) -> AbstractContextManager[None]:
        """Switch the adapter off."""
        return cast("AbstractContextManager[None]", cast("PeftModel", model).disable_adapter())

    def merge(self, model: nn.Module) -> nn.Module:
        """Return the model with the adapter folded into its weights; it can't be taken off again.

        Raises:
            PatchError: the adapter has no place in the base's weights.
        """
        if getattr(model, "is_quantized", False):
            raise PatchError("a quantised base can't take an adapter in; keep the adapter beside it")
        patched = self.apply(model)
        if patched.active_peft_config.is_prompt_learning:
            raise PatchError(
                "prefix tuning adds keys and values, which no weight can hold; keep the prefix beside the base"
            )
        return cast("nn.Module", patched.merge_and_unload())

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


def _without_paths(card: str) -> str:
    """Leave the model's name in the card, not the folders of the machine that made it."""
    return re.sub(r"(?<![\w:/])/[^\s\"']+/([^\s/\"']+)", r"\1", card)

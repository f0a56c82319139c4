"""The trained model as an ordinary folder, for everything that reads models."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer
from peft import PeftModel
from rich.console import Console
from torch import nn
from transformers import PreTrainedModel

from hotfix.atomic import atomic_folder
from hotfix.callbacks.run_folder import RunFolder
from hotfix.data.exposure import Exposure
from hotfix.errors import ConfigError
from hotfix.models.sharded import whole, whole_state
from hotfix.modules import HotfixModule

__all__ = ["SaveModel", "merged"]

log = logging.getLogger(__name__)


def merged(model: nn.Module) -> PreTrainedModel:
    """Return the model with its adapter added to its own weights; the one given is used up.

    Raises:
        ConfigError: the adapter has no such form (prefix tuning, IA3 on a quantised base).
    """
    if isinstance(model, PeftModel):
        try:
            model = cast("nn.Module", model.merge_and_unload())
        except (AttributeError, NotImplementedError, ValueError) as error:
            raise ConfigError(
                f"this adapter can't be merged into the model ({error}); take LoRA or FullFineTuning, or leave "
                "hotfix.callbacks.SaveModel out"
            ) from error
    return cast("PreTrainedModel", model)


class SaveModel(Callback):
    """Saves the trained model with its tokenizer when a fit has ended, merged, as `from_pretrained` reads it.

    In the precision that it was trained in: a base in bfloat16 rounds what is merged into it, so give it `dtype:
    float32`. Canaries that were planted lie beside it.

    Args:
        folder: where; `model` in the run's folder by default.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save; after everything else is written, because merging uses the adapter up."""
        unfinished = trainer.interrupted or RunFolder.of(trainer).stopped_early
        if stage != "fit" or unfinished or not isinstance(pl_module, HotfixModule):
            return
        with whole(pl_module.policy):
            if trainer.is_global_zero:
                self._save(trainer, pl_module)

    def _save(self, trainer: Trainer, pl_module: HotfixModule) -> None:
        folder = Path(self.folder) if self.folder else Path(trainer.default_root_dir) / "model"
        folder.parent.mkdir(parents=True, exist_ok=True)
        model = merged(pl_module.policy)
        with atomic_folder(folder) as partial:
            model.save_pretrained(partial, state_dict=whole_state(model))
            pl_module.tokenizer.save_pretrained(partial)
            data = trainer.datamodule  # type: ignore[attr-defined]
            if isinstance(data, Exposure) and data.canaries:
                shutil.copyfile(data.canaries, partial / "canaries.json")
        log.info("model saved in %s", folder)
        Console().print(f"model: {folder}")

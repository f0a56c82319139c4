"""Callbacks that the tests put into runs by class path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["PulledPlug", "RankNote"]


class PulledPlug(Callback):
    """A power cut at the beginning of the step after `stop`.

    Args:
        stop: optimizer steps that are finished.
    """

    def __init__(self, stop: int) -> None:
        self.stop = stop

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.stop:
            raise RuntimeError("pulled the plug")


class RankNote(Callback):
    """Each process notes how many pairs it has trained on, in a file named after its rank."""

    def __init__(self) -> None:
        self._pairs = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._pairs += len(batch.keys)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        note = Path(trainer.default_root_dir) / f"rank-{trainer.global_rank}-of-{trainer.world_size}"
        note.write_text(str(self._pairs), encoding="utf-8")

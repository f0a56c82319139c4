"""Callbacks that the tests put into runs by class path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed.tensor import DTensor

__all__ = ["HeldNote", "PulledPlug", "RankNote"]


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


class HeldNote(Callback):
    """Each process notes how many numbers of the frozen base it holds behind the first step, and how many there are."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        frozen = [p for p in pl_module.parameters() if not p.requires_grad]
        held = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in frozen)
        note = Path(trainer.default_root_dir) / f"held-{trainer.global_rank}"
        note.write_text(f"{held} {sum(p.numel() for p in frozen)}", encoding="utf-8")


class RankNote(Callback):
    """Each process notes how many pairs it has trained on, in a file named after its rank."""

    def __init__(self) -> None:
        self._pairs = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._pairs += len(batch.keys)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        note = Path(trainer.default_root_dir) / f"rank-{trainer.global_rank}-of-{trainer.world_size}"
        note.write_text(str(self._pairs), encoding="utf-8")

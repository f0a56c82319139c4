"""Hotfixes without a training loop: what Lightning asks of a module that has no steps."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from hotfix.modules.base import HotfixModule

__all__ = ["Untrained"]


class Untrained(HotfixModule):
    """Base of the modules whose `hotfix` does all the work, or that have none to do."""

    trains: ClassVar[bool] = False

    def setup(self, stage: str) -> None:
        """Leave the training out: there is nothing to train."""
        if stage == "fit":
            self.trainer.limit_train_batches = 0
            if self.trainer.world_size > 1:
                # DistributedDataParallel refuses a module that has no weight to train.
                self.unused = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: object, batch_idx: int) -> Tensor:
        """Never called; Lightning asks for it."""
        raise RuntimeError("there is nothing to train")

    def validation_step(self, batch: object, batch_idx: int) -> None:
        """No loss to watch; the tasks measure when the loop ends."""

    test_step = validation_step

    def configure_optimizers(self) -> None:
        """None."""

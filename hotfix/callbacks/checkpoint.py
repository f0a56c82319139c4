"""Checkpoints of adapter and optimizer, from which a killed run goes on."""

from __future__ import annotations

from lightning.pytorch.callbacks import ModelCheckpoint

__all__ = ["Checkpoint"]


class Checkpoint(ModelCheckpoint):
    """Keeps `last.ckpt` in the run's `checkpoints` folder; the frozen base isn't in it.

    Args:
        every_n_steps: optimizer steps between two saves.
        folder: where; by default `checkpoints` in the run's folder.
    """

    def __init__(self, every_n_steps: int = 10, folder: str | None = None) -> None:
        super().__init__(
            dirpath=folder,
            every_n_train_steps=every_n_steps,
            save_last=True,
            save_top_k=0,
            enable_version_counter=False,
        )

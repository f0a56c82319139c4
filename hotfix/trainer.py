"""Lightning's trainer with the settings that hotfix can't work without."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer

__all__ = ["HotfixTrainer"]


class HotfixTrainer(Trainer):
    """A `Trainer` whose loaders are dealt to the processes by hotfix itself, in equal steps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  the trainer's own arguments
        kwargs["use_distributed_sampler"] = False
        kwargs.setdefault("num_sanity_val_steps", 0)
        super().__init__(*args, **kwargs)

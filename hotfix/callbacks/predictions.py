"""`hotfix predict`: what the model writes at each pair's place, as JSON Lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from hotfix.report.results import write_records

__all__ = ["Predictions"]


class Predictions(Callback):
    """Collects what `predict_step` returns and writes `predictions.jsonl`; each process writes a file of its own."""

    def __init__(self) -> None:
        self._rows: list[Mapping[str, Any]] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401  whatever predict_step returns
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's rows."""
        self._rows.extend(outputs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write them."""
        name = "predictions.jsonl" if trainer.world_size == 1 else f"predictions-{trainer.global_rank}.jsonl"
        path = Path(trainer.default_root_dir) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_records(path, self._rows)
        Console().print(f"predictions: {path}")

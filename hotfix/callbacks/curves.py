"""The run's curves: `curves/metrics.csv` in its folder."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

__all__ = ["Curves"]


class Curves(CSVLogger):
    """Lightning's CSV logger, which makes its folder when the first number comes.

    Lightning opens its loggers before it reads the data and loads the model; a run that fails there must leave nothing.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path | str) -> None:
        super().__init__(save_dir=folder, name="curves", version="", flush_logs_every_n_steps=10)
        self._late = _LateWriter(self.log_dir)

    @property
    def experiment(self) -> Any:  # noqa: ANN401  stands for the writer that Lightning declares
        """What writes the file."""
        return self._late

    def finalize(self, status: str) -> None:
        """Write the rest, however the run ended."""
        self.save()


class _LateWriter:
    """Stands for a writer until there is something to write."""

    def __init__(self, folder: str) -> None:
        self.log_dir = folder

    @cached_property
    def _writer(self) -> ExperimentWriter:
        return ExperimentWriter(self.log_dir)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep a row."""
        self._writer.log_metrics(metrics, step)

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Leave them to config.yaml."""

    def save(self) -> None:
        """Write what there is."""
        if "_writer" in self.__dict__:
            self._writer.save()

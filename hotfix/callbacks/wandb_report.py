"""What a run found, in Weights & Biases: its configuration, the table of before and after, and the patch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from hotfix.callbacks.run_folder import RunFolder
from hotfix.errors import ConfigError
from hotfix.report.results import load_results

__all__ = ["WandbReport", "table_rows"]

_COLUMNS: Final = ("task", "slice", "metric", "n", "before", "low", "high", "after", "low after", "high after", "p")


class WandbReport(Callback):
    """Adds to the trainer's `WandbLogger`, once everything is in the run's folder.

    It waits for `teardown`: the run's folder writes its results in `on_fit_end`, whose order among callbacks is that of
    the configuration.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the resolved configuration with the run."""
        logger = _logger(trainer)
        if trainer.is_global_zero:
            config = yaml.safe_load(RunFolder.of(trainer).config) or {}
            logger.experiment.config.update(config, allow_val_change=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Send what the run left behind, if it came to its end."""
        root = Path(trainer.default_root_dir)
        folder = RunFolder.of(trainer)
        if not trainer.is_global_zero or folder.stopped_early or not (root / "results.json").is_file():
            return
        run: Any = _logger(trainer).experiment
        results = load_results(root / "results.json")
        _send_numbers(run, results)
        if stage == "fit":
            _send_patch(run, folder.name, root)


def table_rows(results: Mapping[str, Any]) -> list[list[Any]]:
    """Return a row a metric, in the order of results.json.

    >>> part = {"before": {"kl": {"value": 0, "n": 3, "low": 0, "high": 0}}, "after": {}, "tests": {}}
    >>> table_rows({"tasks": {"bug_fix": {"specificity": part}}})
    [['bug_fix', 'specificity', 'kl', 3, 0, 0, 0, None, None, None, None]]
    """
    return [
        [
            *(task, part, metric, before.get("n", after.get("n"))),
            *(before.get(key) for key in ("value", "low", "high")),
            *(after.get(key) for key in ("value", "low", "high")),
            test.get("p"),
        ]
        for task, part, metric, before, after, test in _metrics(results)
    ]


def _send_numbers(run: Any, results: Mapping[str, Any]) -> None:  # noqa: ANN401  wandb's run isn't typed
    import wandb

    run.log({"before_after": wandb.Table(columns=list(_COLUMNS), data=table_rows(results))})
    for task, part, metric, before, after, _ in _metrics(results):
        for when, estimate in (("before", before), ("after", after)):
            if estimate:
                run.summary[f"{when}/{task}/{part}/{metric}"] = estimate["value"]


def _send_patch(run: Any, name: str, root: Path) -> None:  # noqa: ANN401  wandb's run isn't typed
    import wandb

    artifact = wandb.Artifact(f"patch-{name}", type="model")
    artifact.add_dir(str(root / "patch"))
    artifact.add_file(str(root / "results.json"))
    run.log_artifact(artifact)


def _metrics(
    results: Mapping[str, Any],
) -> Iterator[tuple[str, str, str, dict[str, Any], dict[str, Any], dict[str, Any]]]:
    for task, slices in results["tasks"].items():
        for part, times in slices.items():
            before, after, tests = (times.get(key, {}) for key in ("before", "after", "tests"))
            for metric in dict.fromkeys([*before, *after]):
                yield task, part, metric, before.get(metric, {}), after.get(metric, {}), tests.get(metric, {})


def _logger(trainer: Trainer) -> WandbLogger:
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            return logger
    raise ConfigError("WandbReport needs trainer.logger to be a WandbLogger; use configs/overlay/wandb.yaml")

"""The seconds of training are those of training: measuring before and after it doesn't count."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from hotfix.callbacks import RunFolder
from hotfix.callbacks import run_folder as module


def test_only_epochs_count_and_a_resumed_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: now.value)
    trainer: Any = SimpleNamespace(estimated_stepping_batches=4, callback_metrics={"train/loss": torch.tensor(1.0)})
    model: Any = nn.Linear(1, 1)

    def run(folder: RunFolder, *epochs: float) -> None:
        folder.on_train_start(trainer, model)
        for seconds in epochs:
            now.value += seconds
            folder.on_train_epoch_end(trainer, model)

    first = RunFolder()
    run(first, 3.0, 4.0)
    now.value += 2.0
    saved = first.state_dict()
    assert saved["seconds"] == 9.0
    second = RunFolder()
    second.load_state_dict(saved)
    run(second, 5.0)
    now.value += 50.0
    second.on_train_end(trainer, model)
    assert second.results.to_dict()["seconds"]["train"] == 14.0
    assert second.state_dict()["seconds"] == 14.0

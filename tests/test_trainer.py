"""The trainer's own defaults hold where the command line says nothing, which it says with a null."""

from __future__ import annotations

import pytest

from hotfix.trainer import HotfixTrainer


@pytest.mark.parametrize(
    ("options", "steps"), [({}, 0), ({"num_sanity_val_steps": None}, 0), ({"num_sanity_val_steps": 3}, 3)]
)
def test_no_validation_before_the_tasks_unless_asked_for(options: dict[str, int | None], steps: int) -> None:
    trainer = HotfixTrainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options)
    assert trainer.num_sanity_val_steps == steps

"""Ctrl-C: finish the step, save the state, say how to go on."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from hotfix.callbacks.run_folder import RunFolder

__all__ = ["Interrupt", "next_command"]


class Interrupt(Callback):
    """Turns the first Ctrl-C in training into a clean stop; a second one stops at once.

    A checkpoint taken in the middle of a step would hold half of it; so the step is finished first.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signal for as long as training runs."""
        self._before = signal.signal(signal.SIGINT, self._ask)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Stop behind a whole optimizer step."""
        if trainer.fit_loop.epoch_loop._should_accumulate() or not self._asked_anywhere(trainer):
            return
        trainer.save_checkpoint(_last_checkpoint(trainer))
        RunFolder.of(trainer).stopped_early = True
        trainer.should_stop = True
        trainer.limit_val_batches = 0
        if trainer.is_global_zero:
            Console().print(
                f"stopped after step {trainer.global_step}; the state is saved. To go on:\n  {next_command(sys.argv)}",
                soft_wrap=True,
                markup=False,
                highlight=False,
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signal back."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signal back."""
        self.on_train_end(trainer, pl_module)

    def _asked_anywhere(self, trainer: Trainer) -> bool:
        """Whether any process was asked: one that stopped alone would leave the others waiting for it."""
        if trainer.world_size == 1:
            return self._asked
        return bool(trainer.strategy.reduce_boolean_decision(self._asked, all=False))

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True


def next_command(argv: list[str]) -> str:
    """Return the command that goes on from the last checkpoint.

    >>> next_command(["/usr/bin/hotfix", "fit", "--config", "a.yaml"])
    'hotfix fit --config a.yaml --ckpt_path last'
    >>> next_command(["hotfix", "fit", "--ckpt_path=old.ckpt", "--data.init_args.train", "my pairs.jsonl"])
    "hotfix fit --data.init_args.train 'my pairs.jsonl' --ckpt_path last"
    """
    arguments = [argument for argument in argv[1:] if not argument.startswith("--ckpt_path=")]
    if "--ckpt_path" in arguments:
        place = arguments.index("--ckpt_path")
        arguments = arguments[:place] + arguments[place + 2 :]
    return shlex.join(["hotfix", *arguments, "--ckpt_path", "last"])


def _last_checkpoint(trainer: Trainer) -> Path:
    """Where `--ckpt_path last` looks."""
    folder = getattr(trainer.checkpoint_callback, "dirpath", None)
    return Path(folder or Path(trainer.default_root_dir) / "checkpoints") / "last.ckpt"

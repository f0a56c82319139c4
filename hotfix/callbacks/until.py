"""Train until a goal is reached or the time is up, and keep the best state that passes the gates, not the last."""

from __future__ import annotations

import logging
import math
import time
from typing import Any, Final, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from torch import Tensor

from hotfix.callbacks.quantities import Quantities
from hotfix.callbacks.run_folder import RunFolder
from hotfix.errors import ConfigError
from hotfix.modules import HotfixModule
from hotfix.report.conditions import Condition, Rank, parse_conditions, rank

__all__ = ["Until", "time_factor"]

log = logging.getLogger(__name__)
_REASONS: Final = {"goal": "the goal was met", "minutes": "the time was up", "end": "the training was at its end"}


class _State(NamedTuple):
    """Of the training, after a step: what was measured, how it compares, and the trained weights."""

    step: int
    values: dict[str, float]
    rank: Rank
    weights: dict[str, Tensor]


def time_factor(step_share: float, time_share: float) -> float:
    """Return what to multiply the learning rate with, so that it falls with the time where that is ahead of the steps.

    A linear schedule that is at `1 - step_share` of its height comes to `1 - time_share`, and to 0 when the time is up.
    As long as the steps will be done in time, it is 1 and changes nothing.

    >>> time_factor(0.25, 0.25), time_factor(0.2, 0.6), time_factor(0.2, 1.5)
    (1.0, 0.5, 0.0)
    """
    if time_share <= step_share:
        return 1.0
    return max(0.0, 1 - time_share) / (1 - step_share) if step_share < 1 else 0.0


class Until(Callback):
    """Stops a fit when its goals are met with the gates passed, or when its time is up.

    Goals and gates are conditions on what is measured while training, on validation pairs and unseen retain text:
    `p_fixed`, `p_buggy`, `p_fixed_at_edit`, `p_buggy_at_edit`, `prefers_fixed`, `kl`, `kl_worst`, `perplexity`,
    `kl_unedited`, `loss` and the objective's terms. The best state so far is kept (all gates passed first, then nearest
    to the goals) and put back when training ends, before the tasks measure and the patch is saved. Where no state
    passed the gates, it is the one that missed them by least, and results.json says so.

    Args:
        goal: what stops the run, as `p_buggy <= 0.1`; or a list, of which all have to hold. `base` stands for what the
            base model has: `p_buggy <= 0.6 * base`.
        gate: what has to hold beside it, written likewise, as `kl <= 0.01`.
        minutes: of training, this measuring included and the measuring before and after it not; the step in which they
            are over is the last. The learning rate falls to zero by then. A run that goes on from a checkpoint goes on
            counting.
        every_n_steps: optimizer steps between two measurements.
        pairs: at most this many validation pairs, evenly spaced; null for all.
        texts: at most this many retain texts.
        text_tokens: of each, from its beginning.
    """

    def __init__(
        self,
        goal: str | list[str] | None = None,
        gate: str | list[str] | None = None,
        minutes: float | None = None,
        every_n_steps: int = 10,
        pairs: int | None = 64,
        texts: int = 32,
        text_tokens: int = 64,
    ) -> None:
        least = {"every_n_steps": (every_n_steps, 1), "pairs": (pairs, 1), "texts": (texts, 1)}
        for name, (value, bound) in {**least, "text_tokens": (text_tokens, 2)}.items():
            if value is not None and value < bound:
                raise ConfigError(f"until.{name} is {value}, expected at least {bound}")
        if minutes is not None and not minutes > 0:
            raise ConfigError(f"until.minutes is {minutes}, expected more than 0, or null for no limit")
        self.goals = parse_conditions(goal, "until.goal")
        self.gates = parse_conditions(gate, "until.gate")
        self._written = {"goal": _listed(goal), "gate": _listed(gate)}
        self.minutes = minutes
        self.every_n_steps = every_n_steps
        self._sizes = (pairs, texts, text_tokens)
        self._quantities: Quantities | None = None
        self._base: dict[str, float] = {}
        self._kept: _State | None = None
        self._measured_at = 0
        self._seconds = 0.0
        self._started: float | None = None
        self._total = math.inf
        self._first: tuple[int, float] | None = None
        self._stopped_by = "end"
        self._report: dict[str, Any] = {}

    @property
    def active(self) -> bool:
        """Whether it was asked for anything."""
        return bool(self.goals or self.gates or self.minutes)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what can't be measured before the model is loaded."""
        if stage != "fit" or not self.active:
            return
        if not isinstance(pl_module, HotfixModule) or not pl_module.trains:
            raise ConfigError(f"until: {type(pl_module).__name__} trains nothing that could be stopped; leave it out")
        wanted = {condition.quantity for condition in self._conditions}
        if wanted:
            data = trainer.datamodule  # type: ignore[attr-defined]
            self._quantities = Quantities(wanted, data, pl_module, *self._sizes)

    def state_dict(self) -> dict[str, Any]:
        """What has to survive a restart, the weights of the best state included."""
        if not self.active:
            return {}
        kept = None if self._kept is None else {**self._kept._asdict(), "rank": list(self._kept.rank)}
        return {
            **self._written,
            "kept": kept,
            "base": self._base,
            "measured_at": self._measured_at,
            "seconds": self._elapsed(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the clock, and with the best state if it was judged by the same conditions."""
        self._seconds = state_dict["seconds"]
        if {key: state_dict[key] for key in self._written} != self._written:
            log.warning("until: the checkpoint had another goal or gate; its best state is not taken over")
            return
        self._base, self._measured_at = state_dict["base"], state_dict["measured_at"]
        if (kept := state_dict["kept"]) is not None:
            self._kept = _State(**{**kept, "rank": Rank(*kept["rank"])})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; a run that had been stopped already is not trained on."""
        if not self.active:
            return
        self._started = time.monotonic()
        self._total = trainer.estimated_stepping_batches
        if self._quantities is not None and not self._base and any(c.factor for c in self._conditions):
            assert isinstance(pl_module, HotfixModule)
            self._base = self._quantities.of_base(pl_module)
            log.info("until: the base has %s", _told(self._base))
        self._stop_if_due(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Note when the first step begins: what comes before it says nothing about the pace."""
        if self._first is None:
            self._first = trainer.global_step, self._elapsed()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Measure every so many steps, and look at the clock after each."""
        if not self.active or trainer.fit_loop.epoch_loop._should_accumulate():
            return
        if trainer.global_step % self.every_n_steps == 0:
            self._measure(trainer, pl_module)
        self._stop_if_due(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the best state back, for the tasks and for the patch."""
        self._finish(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how it ended; a run that was resumed behind its last step has had no end of training."""
        self._finish(trainer, pl_module)
        if self._report and trainer.is_global_zero:
            Console().print(f"until: {self._sentence()}", soft_wrap=True, markup=False, highlight=False)

    @property
    def _conditions(self) -> tuple[Condition, ...]:
        return (*self.goals, *self.gates)

    @property
    def _met(self) -> bool:
        kept = self._kept
        return bool(self.goals) and kept is not None and kept.rank.gates == 0 and kept.rank.goals == 0

    def _elapsed(self) -> float:
        return self._seconds + (0.0 if self._started is None else time.monotonic() - self._started)

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the state after this step, and keep it if it is the best so far."""
        if self._quantities is None or self._measured_at == trainer.global_step:
            return
        assert isinstance(pl_module, HotfixModule)
        step = self._measured_at = trainer.global_step
        values = self._quantities(pl_module)
        for logger in trainer.loggers:
            # The row of the step that led here.
            logger.log_metrics({f"until/{name}": value for name, value in values.items()}, step=step - 1)
        standing = rank(self.goals, self.gates, values, self._base, step)
        better = self._kept is None or standing < self._kept.rank
        log.info("until: step %d%s: %s", step, ", the best so far" if better else "", _told(values))
        if better:
            trained = {n: p.detach().to("cpu", copy=True) for n, p in pl_module.named_parameters() if p.requires_grad}
            self._kept = _State(step, values, standing, trained)

    def _stop_if_due(self, trainer: Trainer) -> None:
        if self._met:
            self._stopped_by, trainer.should_stop = "goal", True
        elif self.minutes is not None:
            # Clocks differ between processes, and all have to decide alike.
            due, factor = trainer.strategy.broadcast(self._due(trainer.global_step, 60 * self.minutes))
            if due:
                self._stopped_by, trainer.should_stop = "minutes", True
            _scale_rates(trainer, factor)

    def _due(self, step: int, limit: float) -> tuple[bool, float]:
        """Whether the time is up, and the learning rate's factor: 1 while the remaining steps will be done in time."""
        elapsed = self._elapsed()
        first, begun = self._first or (step, elapsed)
        left = (self._total - step) * (elapsed - begun) / (step - first) if step > first else 0.0
        late = elapsed + left > limit
        return elapsed >= limit, time_factor(step / self._total, elapsed / limit) if late else 1.0

    def _finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the last state, put the best one back, and write down which it is; once."""
        folder = RunFolder.of(trainer) if self.active else None
        if folder is None or self._report or trainer.interrupted or folder.stopped_early:
            return
        self._seconds, self._started = self._elapsed(), None
        self._measure(trainer, pl_module)
        if self._kept is not None:
            own = dict(pl_module.named_parameters())
            with torch.no_grad():
                for name, weight in self._kept.weights.items():
                    own[name].copy_(weight)
        self._report = self._reported(trainer.global_step)
        folder.results.add_train({"until": self._report})
        level = logging.WARNING if self._report["feasible"] is False else logging.INFO
        log.log(level, "until: %s", self._sentence())

    def _reported(self, last_step: int) -> dict[str, Any]:
        kept = self._kept
        return {
            **self._written,
            "minutes": self.minutes,
            "met": self._met if self.goals else None,
            "feasible": kept.rank.gates == 0 if self.gates and kept else None,
            "step": kept.step if kept else last_step,
            "stopped_by": self._stopped_by,
            "values": kept.values if kept else {},
            "base": self._base,
        }

    def _sentence(self) -> str:
        """How it ended, for a reader."""
        report, kept = self._report, self._kept
        if kept is None:
            return f"ended at step {report['step']}: {_REASONS[report['stopped_by']]}"
        told = "; ".join(condition.told(kept.values, self._base) for condition in self._conditions)
        if report["feasible"] is False:
            found = "WARNING: no state passed the gate; the patch is the one that missed it by least"
        elif report["met"] is False:
            found = "the goal was not met; the patch is the state that came nearest"
        else:
            found = "the patch is the best state"
        return f"{_REASONS[report['stopped_by']]}; {found}, of step {kept.step}: {told}"


def _scale_rates(trainer: Trainer, factor: float) -> None:
    for config in trainer.lr_scheduler_configs:
        # What the schedule says, not what the last step had: that was scaled, too.
        rates = config.scheduler.get_last_lr()
        for group, rate in zip(config.scheduler.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor


def _listed(written: str | list[str] | None) -> list[str]:
    return [written] if isinstance(written, str) else list(written or [])


def _told(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())

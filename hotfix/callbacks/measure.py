"""When tasks run: on the base before training, on the patched model after it, and by `validate` and `test`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from hotfix.callbacks.measurement_cache import MeasurementCache
from hotfix.callbacks.measuring import (
    MetricValues,
    compare,
    compare_groups,
    estimate,
    estimate_groups,
    measure_slice,
    metric_values,
)
from hotfix.callbacks.precision import widened
from hotfix.callbacks.progress import task_progress
from hotfix.callbacks.run_folder import RunFolder
from hotfix.data.datamodule import HotfixDataModule
from hotfix.errors import DataError
from hotfix.metrics.base import Record
from hotfix.models.modes import evaluating
from hotfix.models.sharded import whole
from hotfix.models.states import own_precision
from hotfix.modules import HotfixModule, Online
from hotfix.slots import filled
from hotfix.tasks import Slice, Subject, Task
from hotfix.types import Split

__all__ = ["Measure"]

log = logging.getLogger(__name__)
When = Literal["before", "after"]


@dataclass
class _Measured:
    """A slice, what was recorded of it, and its metrics' values.

    Attributes:
        part: as the base is measured.
        after: as the hotfixed model is: the same examples, prompted as the hotfix would have it.
        records: one an example.
        values: of the metrics.
    """

    part: Slice
    after: Slice
    records: dict[When, list[Record]] = field(default_factory=dict)
    values: dict[When, dict[str, MetricValues]] = field(default_factory=dict)

    @property
    def same_prompts(self) -> bool:
        """Whether nothing that the examples' measurement depends on differs."""
        return [e.content for e in self.part.examples] == [e.content for e in self.after.examples]


class Measure(Callback):
    """Runs the tasks and writes down what they find, before and after.

    Args:
        bug_fix: does it write the fix or the bug; null to leave it out.
        email_leak: does it write e-mail addresses; null to leave it out.
        humaneval: do its programs work; null to leave it out.
        extra: further tasks by name; null leaves one out that another configuration has.
        dtype: precision of measuring; `float32` widens a bfloat16 base for it (twice its memory), `model` doesn't,
            `auto` does for greedy decoding, which flips between ties in bfloat16.
        cache: keep the base model's records for the next run.
        seed: of sampling.
    """

    def __init__(
        self,
        bug_fix: Task | None = None,
        email_leak: Task | None = None,
        humaneval: Task | None = None,
        extra: dict[str, Task | None] | None = None,
        dtype: Literal["auto", "float32", "model"] = "auto",
        cache: bool = True,
        seed: int = 0,
    ) -> None:
        slots = {"bug_fix": bug_fix, "email_leak": email_leak, "humaneval": humaneval}
        self.tasks = filled(slots, extra, "measure.extra")
        self.dtype = dtype
        self.cache = MeasurementCache() if cache else None
        self.seed = seed
        self._measured: dict[str, list[_Measured]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the base before it is touched; then a run that is killed has not lost it."""
        assert isinstance(pl_module, HotfixModule)
        self._run(trainer, pl_module, "test", "before")
        if not pl_module.trains:
            # There will be no end of training; what is done instead belongs into the log.
            folder = RunFolder.of(trainer)
            folder.open(trainer)
            with folder.results.timed("hotfix"):
                data, root = trainer.datamodule, Path(trainer.default_root_dir)  # type: ignore[attr-defined]
                pl_module.hotfix(data, root, partial(task_progress, trainer=trainer))
            folder.results.add_edit(pl_module.made())
            self._run(trainer, pl_module, "test", "after")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the patched model."""
        if not trainer.interrupted and not RunFolder.of(trainer).stopped_early:
            self._run(trainer, pl_module, "test", "after")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure both with the validation contexts, when asked to by `hotfix validate`."""
        if trainer.state.fn == "validate":
            self._both(trainer, pl_module, "validation")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure both with the test contexts, when asked to by `hotfix test`."""
        self._both(trainer, pl_module, "test")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no process behind."""
        self._close()

    def _both(self, trainer: Trainer, pl_module: LightningModule, split: Split) -> None:
        self._run(trainer, pl_module, split, "before")
        self._run(trainer, pl_module, split, "after")

    def _run(self, trainer: Trainer, pl_module: LightningModule, split: Split, when: When) -> None:
        assert isinstance(pl_module, HotfixModule)
        data = trainer.datamodule  # type: ignore[attr-defined]
        folder = RunFolder.of(trainer)
        if not self._measured:
            self._measured = _plan(self.tasks, data, split, pl_module)
        with whole(pl_module.policy), evaluating(pl_module.policy), torch.inference_mode(False), torch.no_grad():
            for name, task in self.tasks.items():
                with folder.results.timed(f"{name}_{when}"):
                    self._run_task(name, task, pl_module, folder, when, trainer)
        if when == "after":
            folder.records = {
                f"{name}/{m.part.name}": (m.part.examples, m.records) for name, ms in self._measured.items() for m in ms
            }
            self._close()

    def _run_task(
        self, name: str, task: Task, pl_module: HotfixModule, folder: RunFolder, when: When, trainer: Trainer
    ) -> None:
        slices = self._measured[name]
        share = sum(len(range(trainer.global_rank, len(m.part.examples), trainer.world_size)) for m in slices)
        with task_progress(f"{name} {when}", share, trainer) as progress:
            for measured in slices:
                alone = pl_module.alone if when == "after" and pl_module.apart else None
                subject = Subject(
                    pl_module.policy, pl_module.tokenizer, pl_module.reference, self.seed, progress, alone
                )
                if when == "after" and isinstance(pl_module, Online) and measured.same_prompts:
                    log.info("%s/%s: the prompts are as before, and so is what is written", name, measured.part.name)
                    measured.records[when] = measured.records["before"]
                    progress(len(range(trainer.global_rank, len(measured.part.examples), trainer.world_size)))
                    self._aggregate(name, measured, when, folder, pl_module.device)
                    continue
                part = measured.part if when == "before" else measured.after
                base = measured.records.get("before") if when == "after" else None
                cache = self._cache_of(pl_module, when, part)
                ready = _ready(pl_module, when, torch.float32 if self._widens(part) else None)
                measured.records[when] = measure_slice(task, part, subject, base, cache, ready)
                self._aggregate(name, measured, when, folder, pl_module.device)

    def _cache_of(
        self, pl_module: HotfixModule, when: When, part: Slice
    ) -> tuple[MeasurementCache, dict[str, str]] | None:
        if self.cache is None or when == "after":
            return None
        precision = "float32" if self._widens(part) else str(next(pl_module.policy.parameters()).dtype)
        device = pl_module.device.type
        return self.cache, {"base": pl_module.base_fingerprint, "precision": precision, "device": device}

    def _aggregate(self, name: str, measured: _Measured, when: When, folder: RunFolder, device: torch.device) -> None:
        part = measured.part
        groups = [example.group for example in part.examples]
        values = {key: metric_values(m, measured.records[when], device) for key, m in part.metrics.items()}
        measured.values[when] = values
        found = {key: estimate(part.metrics[key], value, groups) for key, value in values.items()}
        folder.results.add(name, part.name, when, found)
        folder.results.add_groups(name, part.name, when, estimate_groups(part, values))
        if when == "after":
            before = measured.values["before"]
            tests = {
                key: compare(metric, before[key], values[key], groups, part.group_name)
                for key, metric in part.metrics.items()
            }
            folder.results.add_tests(name, part.name, tests)
            by_group = compare_groups(part, measured.values["before"], values)
            folder.results.add_groups(name, part.name, "tests", by_group)

    def _widens(self, part: Slice) -> bool:
        return self.dtype == "float32" or (self.dtype == "auto" and part.precise)

    def _close(self) -> None:
        for task in self.tasks.values():
            task.close()


def _plan(
    tasks: dict[str, Task], data: HotfixDataModule, split: Split, pl_module: HotfixModule
) -> dict[str, list[_Measured]]:
    """Slices of all tasks; a hotfix of the prompt has its own pairs for the model after it."""
    hotfixed = data
    if isinstance(pl_module, Online):
        hotfixed = data.rewritten(pl_module.rewrite, pl_module.preambles(data.pairs("train")))
    found: dict[str, list[_Measured]] = {}
    for name, task in tasks.items():
        before = task.slices(pl_module.view(data), split)
        after = before if hotfixed is data else task.slices(hotfixed, split)
        _check_same(name, before, after)
        found[name] = [_Measured(*parts) for parts in zip(before, after, strict=True)]
    return found


def _check_same(task: str, before: Sequence[Slice], after: Sequence[Slice]) -> None:
    """Refuse a comment by which a pair counts as something else: before and after would not be of the same examples."""
    names = [[f"{part.name}/{example.id}" for part in parts for example in part.examples] for parts in (before, after)]
    if names[0] != names[1]:
        odd = next(iter(sorted(set(names[0]) ^ set(names[1]))), "their order")
        raise DataError(
            f"with the comments, {task} no longer has the same examples; first, {odd} differs",
            hint="an e-mail address stands shortly before the place; shorten model.init_args.template, or leave the "
            "pair out",
        )


@contextmanager
def _ready(pl_module: HotfixModule, when: When, dtype: torch.dtype | None) -> Iterator[None]:
    """Hold the model as it is measured: in a precision, where there is one, and before, the base alone."""
    with (
        widened(pl_module.policy, dtype),
        own_precision(pl_module.policy),
        pl_module.reference() if when == "before" else nullcontext(),
    ):
        yield

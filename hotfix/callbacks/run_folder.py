"""One folder a run: config, log, results.json, records, report.html, patch/, checkpoints/, each whole or not there."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from hotfix.atomic import atomic_write
from hotfix.data.edit_data import EditData
from hotfix.errors import HotfixError
from hotfix.modules.base import HotfixModule
from hotfix.patches import save_patch
from hotfix.report.gates import Gate, Verdict, judge, parse_gates
from hotfix.report.page import run_page
from hotfix.report.results import Results, collect_versions, write_records
from hotfix.report.tables import before_after_table, render
from hotfix.tasks import Example
from hotfix.types import SPLITS

__all__ = ["RunFolder", "data_digest"]

log = logging.getLogger(__name__)
_LAST_STEPS = 10
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class RunFolder(Callback):
    """Keeps what a run leaves behind and writes it down when the run ends.

    Args:
        name: of the run.
        config: its resolved configuration, YAML.
        seed: of the run.
        gates: conditions on what is measured; a loaded patch brings its own where none are given.
    """

    def __init__(
        self, name: str = "run", config: str = "", seed: int | None = None, gates: Sequence[Gate] = ()
    ) -> None:
        self.name = name
        self.config = config
        self.results = Results(name, seed)
        self.records: Mapping[str, tuple[Sequence[Example], Mapping[Any, Sequence[Mapping[str, Any]]]]] = {}
        self.stopped_early = False
        self.gates = tuple(gates)
        self.verdicts: list[Verdict] = []
        self._losses: deque[float] = deque(maxlen=_LAST_STEPS)
        self._parts: list[float] = []
        self._seconds = 0.0
        self._started = 0.0
        self._handler: logging.Handler | None = None

    @staticmethod
    def of(trainer: Trainer) -> RunFolder:
        """Return the trainer's run folder."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RunFolder):
                return callback
        raise HotfixError("this trainer has no RunFolder callback; start it with the hotfix command, or add one")

    def state_dict(self) -> dict[str, Any]:
        """What has to survive a restart."""
        return {"losses": list(self._losses), "seconds": self._seconds + self._since_start()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._losses.extend(state_dict["losses"])
        self._seconds = state_dict["seconds"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the folder: nothing is written before everything could be loaded."""
        self.open(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the folder for `hotfix validate`."""
        self.open(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the folder for `hotfix test`."""
        self.open(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock behind what is measured before."""
        self._started = time.perf_counter()
        count = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
        log.info("training %d parameters for %s steps", count, trainer.estimated_stepping_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Remember the last losses; a step's is the mean over its micro-batches."""
        self._parts.append(float(trainer.callback_metrics["train/loss"]))
        if not trainer.fit_loop.epoch_loop._should_accumulate():
            self._losses.append(sum(self._parts) / len(self._parts))
            self._parts.clear()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the clock: at the end of training, measuring may come before this callback."""
        self._seconds += self._since_start()
        self._started = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._started = 0.0
        self.results.add_seconds("train", self._seconds)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write everything, results.json last: where it is, the run is whole."""
        if self.stopped_early or trainer.interrupted:
            return
        if self._losses:
            loss = sum(self._losses) / len(self._losses)
            self.results.add_train({"loss": loss, "steps": trainer.global_step, "seconds": self._seconds})
        self._write(trainer, pl_module, whole=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what `hotfix validate` measured."""
        if trainer.state.fn == "validate":
            self._write(trainer, pl_module, whole=False)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what `hotfix test` measured."""
        self._write(trainer, pl_module, whole=False)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the log."""
        if self._handler is not None:
            logging.getLogger().removeHandler(self._handler)
            self._handler.close()
            self._handler = None

    def open(self, trainer: Trainer) -> None:
        """Write the configuration and begin the log, once."""
        if not trainer.is_global_zero or self._handler is not None:
            return
        root = Path(trainer.default_root_dir)
        root.mkdir(parents=True, exist_ok=True)
        if self.config:
            atomic_write(root / "config.yaml", self.config)
        self._handler = logging.FileHandler(root / "run.log", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter(_FORMAT))
        logging.getLogger().addHandler(self._handler)
        log.info("%s started in %s", self.name, root)

    def _write(self, trainer: Trainer, pl_module: LightningModule, whole: bool) -> None:
        if not trainer.is_global_zero:
            return
        root = Path(trainer.default_root_dir)
        gates = self.gates or (parse_gates(pl_module.gates()) if isinstance(pl_module, HotfixModule) else ())
        self.verdicts = judge(gates, self.results.to_dict())
        self.results.add_gates(self.verdicts)
        results = self.results.to_dict()
        patch = None
        if whole and isinstance(pl_module, HotfixModule):
            patch = pl_module.make_patch(
                gates=tuple(gate.text for gate in gates),
                config_digest=_digest([self.config]),
                data_digest=data_digest(trainer),
                versions=collect_versions(),
                results=results["tasks"],
            )
        if patch is not None:
            save_patch(patch, root / "patch")
        write_records(root / "records.jsonl", self._record_lines())
        self.results.write(root / "results.json")
        if whole:
            # Made of the files above; a run that is killed here is whole without it.
            atomic_write(root / "report.html", run_page(root, self.name))
        table = before_after_table(results)
        log.info("results\n%s", render(table))
        console = Console()
        # What isn't a terminal has no width of its own, and rich would take 80.
        console = console if console.is_terminal else Console(width=100)
        if results["tasks"]:
            console.print(before_after_table(results, console.width))
        for verdict in self.verdicts:
            console.print(f"{'holds' if verdict.holds else 'FAILS'}: {verdict.gate} ({verdict.found})", markup=False)
        made = (
            {"results": "results.json"}
            | ({"patch": "patch"} if patch else {})
            | ({"page": "report.html"} if whole else {})
        )
        console.print("   ".join(f"{what}: {root / name}" for what, name in made.items()))

    def _record_lines(self) -> Iterator[dict[str, Any]]:
        for place, (examples, by_time) in self.records.items():
            task, _, part = place.partition("/")
            for when, records in by_time.items():
                for example, record in zip(examples, records, strict=True):
                    named = {"task": task, "slice": part, "when": when, "id": example.id, "group": example.group}
                    yield {**named, **record}

    def _since_start(self) -> float:
        return time.perf_counter() - self._started if self._started else 0.0


def data_digest(trainer: Trainer) -> str:
    """Digest the pairs that were trained on; of a data set of edits, all of them."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if isinstance(data, EditData):
        requests = (request for split in SPLITS for request in data.requests(split))
        return _digest(f"{r.id}\0{r.prompt}\0{r.target}\0{r.paraphrases}\0{r.neighbours}" for r in requests)
    return _digest(f"{p.id}\0{p.prefix}\0{p.buggy}\0{p.fixed}\0{p.suffix}" for p in data.pairs("train"))


def _digest(rows: Iterable[str]) -> str:
    total = hashlib.sha256()
    for place, row in enumerate(rows):
        total.update(("\n" * (place > 0) + row).encode())
    return total.hexdigest()

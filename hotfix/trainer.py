"""Lightning's trainer with the settings that hotfix can't work without, and the verbs that look at data."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.rule import Rule

from hotfix.callbacks import Measure, RunFolder
from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.edit_data import EditData
from hotfix.data.edit_preview import request_view
from hotfix.data.edits import EditRequest
from hotfix.data.encode import encode_text
from hotfix.data.preview import pair_view, text_view
from hotfix.data.quality import Finding, find_problems
from hotfix.data.quality_table import quality_table
from hotfix.errors import ConfigError
from hotfix.losses import Objective
from hotfix.modules import Edit, HotfixModule
from hotfix.report.edit_view import edit_table, shown
from hotfix.spacing import evenly
from hotfix.tasks import EditQuality, Task
from hotfix.types import Split

__all__ = ["HotfixTrainer"]

# Prompts that show what else moved, where one edit is made by hand.
_UNRELATED = 5
_WIDTH = 120


class HotfixTrainer(Trainer):
    """A `Trainer` whose loaders are dealt to the processes by hotfix itself, in equal steps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  the trainer's own arguments
        kwargs["use_distributed_sampler"] = False
        if kwargs.get("num_sanity_val_steps") is None:
            # The rows were looked at already, and a run starts with the tasks.
            kwargs["num_sanity_val_steps"] = 0
        super().__init__(*args, **kwargs)

    def preview(
        self, model: LightningModule, datamodule: HotfixDataModule, count: int = 3, split: Split = "train"
    ) -> None:
        """Show rows as the model sees them, with what is learned, unlearned and retained; loads no model.

        Args:
            model: whose objective is named, and whose comments are shown where it hotfixes the prompt.
            datamodule: the rows.
            count: how many pairs or edits, evenly spaced; of pairs' retain texts a third as many.
            split: of which split.
        """
        console = Console(soft_wrap=True, highlight=False)
        data = datamodule.rewritten(model.rewrite) if isinstance(model, HotfixModule) else datamodule
        if isinstance(data, EditData):
            _preview_edits(console, data, count, split)
            return
        pairs = data.pairs(split)
        count = max(0, min(count, len(pairs)))
        for pair in evenly(pairs, count):
            console.print(Rule(style="dim"), pair_view(pair, data.encoder(pair), data.tokenizer))
        for text in data.retain_texts(split, -(-count // 3)):
            ids = encode_text(data.tokenizer, text.text).ids[: data.retain_length]
            console.print(Rule(style="dim"), text_view(text.id, ids, data.tokenizer))
        console.print(
            Rule(style="dim"), f"{len(pairs)} pairs in {split}; {{+learned+}} {{-unlearned-}} others retained"
        )
        for line in _terms(model):
            console.print(line)

    def edit(
        self,
        model: LightningModule,
        datamodule: HotfixDataModule,
        prompt: str | None = None,
        target: str | None = None,
        paraphrase: list[str] | None = None,
        neighbour: list[str] | None = None,
    ) -> None:
        """Edit the model by an editor, without training, and measure it before and after.

        Args:
            model: `hotfix.modules.Edit`, which names the editor.
            datamodule: the requests.
            prompt: edit this one prompt in place of the data's, and show what the model writes before and after.
            target: what it is to write behind it, with the space or line break that it starts with.
            paraphrase: another prompt that should get the same answer; not shown to the editor. Can be repeated.
            neighbour: a prompt whose answer should stay; not shown to the editor. Can be repeated.
        """
        if not isinstance(model, Edit):
            raise ConfigError(
                f"model.class_path is {type(model).__name__}, which hotfix edit can't run; name hotfix.modules.Edit "
                "and an editor, as configs/recipe/ft_m.yaml does, or use hotfix fit"
            )
        request = _one_request(prompt, target, paraphrase or [], neighbour or [])
        if request is not None:
            model.edit_only(request)
            self._measure_only_edits()
        self.fit(model, datamodule=datamodule)
        if request is not None and self.is_global_zero and not self.interrupted:
            self._show_edit()

    def _measure_only_edits(self) -> None:
        """Leave out the tasks that a recipe has for many edits."""
        measure = next(c for c in self.callbacks if isinstance(c, Measure))  # type: ignore[attr-defined]
        own: dict[str, Task] = {name: task for name, task in measure.tasks.items() if isinstance(task, EditQuality)}
        measure.tasks = own or {"edit": EditQuality(unrelated_examples=_UNRELATED, fluency_examples=0)}

    def _show_edit(self) -> None:
        slices = {place.partition("/")[2]: records for place, (_, records) in RunFolder.of(self).records.items()}
        console = Console(highlight=False)
        # What isn't a terminal has no width of its own, and rich would take 80.
        console = console if console.is_terminal else Console(highlight=False, width=_WIDTH)
        console.print(Rule("what it writes", style="dim"), edit_table(shown(slices)))

    def check(self, model: LightningModule, datamodule: HotfixDataModule, limit: int = 20) -> list[Finding]:
        """Look for what is wrong with the rows, and print it; `hotfix check` ends with 1 where an error is found.

        Args:
            model: not looked at; a configuration names one.
            datamodule: the rows.
            limit: at most this many findings of a kind are printed.
        """
        found = find_problems(datamodule)
        Console().print(quality_table(found, limit))
        return found


def _one_request(
    prompt: str | None, target: str | None, paraphrases: list[str], neighbours: list[str]
) -> EditRequest | None:
    """The request of the command line, if there is one."""
    if prompt is None and target is None and not paraphrases and not neighbours:
        return None
    if prompt is None or target is None:
        missing = "--prompt" if prompt is None else "--target"
        raise ConfigError(f"{missing} is missing: one edit needs --prompt '...' and --target '...'")
    request = EditRequest("one", prompt, target, tuple(paraphrases), tuple(neighbours), ending="\n")
    if not target.strip():
        raise ConfigError("--target is empty; say what is to be written behind the prompt")
    return request


def _preview_edits(console: Console, data: EditData, count: int, split: Split) -> None:
    requests = data.requests(split)
    for request in evenly(requests, max(0, count)):
        console.print(Rule(style="dim"), request_view(request, data.tokenizer))
    console.print(Rule(style="dim"), f"{len(requests)} edits in {split}; editors see prompt and target only")


def _terms(model: LightningModule) -> list[str]:
    """What the objective makes of the tokens, a line a term."""
    objective = getattr(model, "objective", None)
    if not isinstance(objective, Objective):
        return []
    return [f"{name}: {type(term).__name__}({_settings(term)})" for name, term in objective.named_terms()]


def _settings(term: object) -> str:
    plain = {key: value for key, value in vars(term).items() if not key.startswith("_") and key != "training"}
    return ", ".join(f"{key}={value}" for key, value in plain.items() if isinstance(value, str | int | float | dict))

"""What the callbacks need of a module: a model, how it is without the hotfix, and the patch that comes out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from lightning.pytorch import LightningModule
from torch import nn
from transformers import PreTrainedTokenizerBase

from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.schema import CodePair
from hotfix.generation import StopAfterLines, greedy
from hotfix.models.loading import load_tokenizer
from hotfix.models.states import own_precision
from hotfix.patches import Patch

__all__ = ["HotfixModule", "Progress"]

_PREDICTED_TOKENS = 64
Progress: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class HotfixModule(LightningModule):
    """Base of everything that hotfixes a model, by its weights or by its prompt.

    Attributes:
        trains: whether there are steps of an optimizer; where there are none, `hotfix` does all the work.
        model_name: `smollm2-135m`, a local folder or a Hugging Face id.
        model: with the hotfix on, once `configure_model` was called.
        base_fingerprint: of the base's weights.
    """

    trains: ClassVar[bool] = True
    model_name: str

    def __init__(self) -> None:
        super().__init__()
        self.model: nn.Module | None = None
        self.base_fingerprint = ""

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer."""
        return load_tokenizer(self.model_name)

    @property
    def policy(self) -> nn.Module:
        """The model with the hotfix on."""
        if self.model is None:
            raise RuntimeError("configure_model was not called yet")
        return self.model

    @abstractmethod
    def reference(self) -> AbstractContextManager[None]:
        """Context in which the model is the frozen base."""

    @abstractmethod
    def make_patch(self, **provenance: Any) -> Patch | None:  # noqa: ANN401  fields of Provenance
        """Return the hotfix as a patch; None where there is no single one."""

    def hotfix(self, data: HotfixDataModule, folder: Path, progress: Progress) -> None:
        """Make the hotfix, between the two measurements, where no training loop does.

        Args:
            data: the run's.
            folder: the run's.
            progress: takes a label and a total, and yields what is told how much has been done.
        """

    def made(self) -> Mapping[str, object]:
        """Return facts about the making, for results.json, once `hotfix` is done."""
        return {}

    def view(self, data: HotfixDataModule) -> HotfixDataModule:
        """Return the data as tasks have to see it."""
        return data

    @property
    def apart(self) -> bool:
        """Whether each example has a hotfix of its own, which `alone` puts on."""
        return False

    def alone(self, example: str) -> AbstractContextManager[None]:
        """Context in which the model has only the hotfix of one example on, where each is tried by itself."""
        return nullcontext()

    def gates(self) -> tuple[str, ...]:
        """Return the conditions that a loaded patch was made to hold."""
        return ()

    def rewrite(self, pair: CodePair) -> CodePair:
        """Return the pair as the hotfixed model is prompted with it: unchanged, where weights are what changes."""
        return pair

    def predict_step(self, batch: list[CodePair], batch_idx: int) -> list[dict[str, str]]:
        """Return what the model writes, greedily, at each pair's place: its first statement and the two that may be."""
        encoder = self.trainer.datamodule.encoder  # type: ignore[attr-defined]
        encoded = [encoder(self.rewrite(pair)) for pair in batch]
        prompts = [code.shared[: code.prompt] for code in encoded]
        with own_precision(self.policy):
            written = greedy(self.policy, self.tokenizer, prompts, _PREDICTED_TOKENS, stop=StopAfterLines(1))
        texts = [str(self.tokenizer.decode(made.token_ids, clean_up_tokenization_spaces=False)) for made in written]
        return [
            {"id": pair.id, "completion": text, "fixed": pair.fixed, "buggy": pair.buggy}
            for pair, text in zip(batch, texts, strict=True)
        ]

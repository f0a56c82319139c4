"""The adapter seam: which weights train, and how the model is seen without them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, cast

from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from hotfix.adapters.first_pass import Watcher
from hotfix.data.encode import EncodedPair
from hotfix.errors import ConfigError
from hotfix.models.quantised import Bits

__all__ = ["Adapter", "PeftAdapter"]


class Adapter(ABC):
    """Puts trainable weights on a frozen model.

    Invariant: inside `reference(model)`, the model's output is the base model's, bit for bit, at any time in training.

    Attributes:
        learning_rate: of AdamW at its peak, where the configuration says none.
        bits: how the base is to be loaded, quantised to so many bits a weight; None as it is.
        float32: whether the base has to be held in float32.
        checkpointing: whether it works with gradient checkpointing.
    """

    learning_rate: ClassVar[float] = 1e-3
    bits: Bits | None = None
    float32: ClassVar[bool] = False
    checkpointing: ClassVar[bool] = True

    @abstractmethod
    def attach(self, model: PreTrainedModel) -> nn.Module:
        """Return the model with trainable weights; every other parameter has `requires_grad` off.

        Raises:
            ConfigError: a setting doesn't fit this model.
        """

    def kept_weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return, by name, the weights that say what was trained; by default those that train.

        Args:
            model: as `attach` returned it.
        """
        return {name: p for name, p in model.named_parameters() if p.requires_grad}

    def starting(
        self, model: nn.Module, pairs: Sequence[EncodedPair], retain: Sequence[Sequence[int]]
    ) -> list[Watcher]:
        """Return who sets the trainable weights' start from the first pass over the training rows; most need nobody.

        Args:
            model: as `attach` returned it.
            pairs: training pairs.
            retain: token ids of retain texts.
        """
        return []

    @abstractmethod
    def reference(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which the model is the frozen base."""


class PeftAdapter(Adapter):
    """An adapter that peft implements."""

    @abstractmethod
    def config(self, model: PreTrainedModel) -> PeftConfig:
        """Return peft's configuration for this model."""

    def attach(self, model: PreTrainedModel) -> PeftModel:
        """Wrap the model; adapter weights are float32 whatever the base's precision."""
        config = self.config(model)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            first = str(error).splitlines()[0]
            raise ConfigError(f"adapter.init_args don't fit {type(model).__name__}: {first:.200}") from error

    def reference(self, model: nn.Module) -> AbstractContextManager[None]:
        """Switch the adapter off."""
        return cast("AbstractContextManager[None]", cast("PeftModel", model).disable_adapter())

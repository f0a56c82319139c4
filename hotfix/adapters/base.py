"""The adapter seam: which weights train, and how the model is seen without them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import cast

from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from hotfix.errors import ConfigError

__all__ = ["Adapter", "PeftAdapter"]


class Adapter(ABC):
    """Puts trainable weights on a frozen model.

    Invariant: inside `reference(model)`, the model's output is the base model's, bit for bit, at any time in training.
    """

    @abstractmethod
    def attach(self, model: PreTrainedModel) -> nn.Module:
        """Return the model with trainable weights; every other parameter has `requires_grad` off.

        Raises:
            ConfigError: a setting doesn't fit this model.
        """

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

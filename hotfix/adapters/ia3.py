"""IA3: learnt factors of inner activations (Liu et al. 2022, https://arxiv.org/abs/2205.05638)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from peft import IA3Config, TaskType
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEEDFORWARD,
)
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGETS,
)
from torch import nn
from transformers import PreTrainedModel

from hotfix.adapters.base import PeftAdapter
from hotfix.adapters.targets import check_layers, check_targets, linear_names
from hotfix.errors import ConfigError
from hotfix.models.layout import find_blocks

__all__ = ["IA3"]


class _Scaled(NamedTuple):
    """Layers whose output, or for the feed-forward ones whose input, is scaled."""

    targets: Sequence[str]
    feedforward: Sequence[str]


# Architectures that peft has no names for; those of CodeGen are Zhou and Lo's (https://arxiv.org/abs/2408.05727).
_MORE: Mapping[str, _Scaled] = {
    "codegen": _Scaled(["qkv_proj", "fc_in", "fc_out"], ["fc_in", "fc_out"]),
    "starcoder2": _Scaled(["k_proj", "v_proj", "c_proj"], ["c_proj"]),
}


class IA3(PeftAdapter):
    """Scales keys, values and what enters the feed-forward's last layer by learnt vectors, eq. 1; all start at one.

    The smallest of the adapters: about two thousand numbers a block. The paper's learning rate, 3e-3 (section 3.3), is
    for a thousand steps; in the tens of steps of a hotfix 1e-2 learns twice as much at the same drift.

    Args:
        modules: layers to scale, by the last part of their names; null for the architecture's own choice.
        feedforward_modules: those of them whose input is scaled rather than their output; null with the above.
        layers: indices of the decoder blocks to adapt; null for all.
    """

    learning_rate: ClassVar[float] = 1e-2

    def __init__(
        self,
        modules: list[str] | None = None,
        feedforward_modules: list[str] | None = None,
        layers: list[int] | None = None,
    ) -> None:
        stray = sorted(set(feedforward_modules or ()) - set(modules or ()))
        if stray:
            raise ConfigError(
                f"adapter.init_args.feedforward_modules names {', '.join(stray)}, which modules doesn't; add "
                "it there as well"
            )
        self.modules = modules
        self.feedforward_modules = feedforward_modules
        self.layers = layers

    def config(self, model: PreTrainedModel) -> IA3Config:
        """Return peft's configuration, after checking that every target is in the model."""
        scaled = self._scaled(model)
        check_targets(model, list(scaled.targets), "modules")
        check_layers(model, self.layers)
        return IA3Config(
            task_type=TaskType.CAUSAL_LM,
            target_modules=self._names(model, scaled.targets),
            feedforward_modules=self._names(model, scaled.feedforward),
        )

    def _scaled(self, model: PreTrainedModel) -> _Scaled:
        if self.modules is not None:
            return _Scaled(self.modules, self.feedforward_modules or [])
        kind = model.config.get_text_config().model_type
        known = _Scaled(TARGETS[kind], FEEDFORWARD[kind]) if kind in TARGETS else _MORE.get(kind)
        if known is None:
            raise ConfigError(
                f"IA3 doesn't know which layers of {type(model).__name__} to scale; name keys, values and the "
                "feed-forward's last layer in adapter.init_args.modules, the last one also in "
                f"feedforward_modules. It has {', '.join(linear_names(model))}"
            )
        return known

    def _names(self, model: PreTrainedModel, ends: Sequence[str]) -> list[str]:
        """The full names of the chosen blocks' layers; peft's own choice of blocks is for LoRA only."""
        if self.layers is None or not ends:
            return list(ends)
        blocks = find_blocks(model.get_decoder()).blocks
        chosen = {id(part) for index in self.layers for part in blocks[index].modules()}
        return [name for name, part in _layers(model) if id(part) in chosen and name.endswith(tuple(ends))]


def _layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, part) for name, part in model.named_modules() if name]

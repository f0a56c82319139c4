"""Full fine-tuning: the base's own weights train, all of them or chosen ones."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hotfix.adapters.base import Adapter
from hotfix.adapters.targets import check_layers
from hotfix.errors import ConfigError
from hotfix.models.layout import find_blocks
from hotfix.models.weights import replace_weights, swapped_weights

__all__ = ["FullFineTuning"]


class FullFineTuning(Adapter):
    """Trains the base's own weights; their values in the base wait on the CPU and are put back for the reference.

    There is no second live model: the frozen weights are shared, and inside `reference` the trained ones are exchanged
    for the base's, no arithmetic done. The base is held in float32, because at this learning rate an update is smaller
    than what bfloat16 can tell apart; `trainer.precision: bf16-mixed` multiplies in bfloat16 all the same. The rate is
    that of full fine-tuning in SafeCoder (He et al. 2024, https://arxiv.org/abs/2402.09497).

    Args:
        weights: `all`, or parts of the names of the layers whose weights train, as `mlp` or `self_attn.q_proj`.
        layers: indices of the decoder blocks whose weights train; null for all, and for what is outside the blocks.
    """

    learning_rate: ClassVar[float] = 2e-5
    float32: ClassVar[bool] = True

    def __init__(self, weights: str | list[str] = "all", layers: list[int] | None = None) -> None:
        self.weights = weights
        self.layers = layers
        self._base: dict[str, Tensor] = {}

    def attach(self, model: PreTrainedModel) -> PreTrainedModel:
        """Make copies of the chosen weights train in their place."""
        check_layers(model, self.layers)
        own = dict(model.named_parameters())
        names = self._chosen(model)
        unfit = next((name for name in names if own[name].dtype != torch.float32), None)
        if unfit is not None:
            raise ConfigError(
                f"FullFineTuning can't train {unfit}, which is {str(own[unfit].dtype).removeprefix('torch.')}; load "
                "the model in float32, or use hotfix.adapters.LoRA (QLoRA for a quantised one)"
            )
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self._base = {name: own[name].detach().cpu() for name in names}
        replace_weights(model, {name: nn.Parameter(own[name].detach().clone()) for name in names})
        return model

    def reference(self, model: nn.Module) -> AbstractContextManager[None]:
        """Put the base's weights in the place of the trained ones."""
        return swapped_weights(model, self._base)

    def squared_drift(self, model: nn.Module) -> Tensor:
        """Return the squared Euclidean distance of the trained weights from the base's, float32 []."""
        own = dict(model.named_parameters())
        parts = [(own[name] - base.to(own[name].device)).square().sum() for name, base in self._base.items()]
        return torch.stack(parts).sum()

    def _chosen(self, model: PreTrainedModel) -> list[str]:
        """Names of the weights to train, one name for weights that are tied."""
        first = {id(p): name for name, p in model.named_parameters()}
        blocks = find_blocks(model.get_decoder()).blocks
        kept = None if self.layers is None else {id(p) for i in self.layers for p in blocks[i].parameters()}
        parts = [self.weights] if isinstance(self.weights, str) else self.weights
        found: dict[str, None] = {}
        for part in parts:
            fitting = [
                first[id(p)]
                for name, p in model.named_parameters(remove_duplicate=False)
                if (part == "all" or f".{part}." in f".{name}.") and (kept is None or id(p) in kept)
            ]
            if not fitting:
                raise ConfigError(_no_weights(model, part, self.layers))
            found.update(dict.fromkeys(fitting))
        return list(found)


def _no_weights(model: nn.Module, part: str, layers: list[int] | None) -> str:
    words = sorted({word for name, _ in model.named_parameters() for word in name.split(".") if not word.isdigit()})
    where = f" in the layers {layers}" if layers else ""
    return (
        f"adapter.init_args.weights: no weight of {type(model).__name__}{where} has {part!r} in its name; say "
        f"all, or some of {', '.join(words)}"
    )

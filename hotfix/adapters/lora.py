"""Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

import difflib

from peft import LoraConfig, TaskType
from torch import nn
from transformers import PreTrainedModel

from hotfix.adapters.base import PeftAdapter
from hotfix.errors import ConfigError

__all__ = ["LoRA"]


class LoRA(PeftAdapter):
    """Adds `alpha / rank * B A` to chosen linear layers; B starts at zero, so training starts at the base.

    Args:
        rank: of the update.
        alpha: scale; the update is multiplied by `alpha / rank`.
        dropout: of the layer's input, on the adapter's path only.
        target_modules: names of the layers, by their last part (`q_proj`), or `all-linear` for all but the head.
        layers: indices of the decoder blocks to adapt; null for all.
    """

    def __init__(
        self,
        rank: int = 8,
        alpha: int = 16,
        dropout: float = 0.0,
        target_modules: str | list[str] = "all-linear",
        layers: list[int] | None = None,
    ) -> None:
        if rank < 1:
            raise ConfigError(f"adapter.init_args.rank is {rank}, expected at least 1")
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.target_modules = target_modules
        self.layers = layers

    def config(self, model: PreTrainedModel) -> LoraConfig:
        """Return peft's configuration, after checking that every target is in the model."""
        _check_targets(model, self.target_modules)
        _check_layers(model, self.layers)
        targets = self.target_modules
        # peft reads any other plain text as a regular expression of whole names.
        targets = [targets] if isinstance(targets, str) and targets != "all-linear" else targets
        return LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            # all-linear and a choice of layers exclude each other in peft, so the names are written out.
            target_modules=_linear_names(model) if targets == "all-linear" and self.layers else targets,
            layers_to_transform=self.layers,
        )


def _linear_names(model: nn.Module) -> list[str]:
    """Last parts of the names of all linear layers but the head."""
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    found = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        # GPT-2's layers are a Conv1D of its own, linear all the same.
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D") and module is not head
    }
    return sorted(found)


def _check_layers(model: PreTrainedModel, layers: list[int] | None) -> None:
    count = model.config.get_text_config().num_hidden_layers
    if layers is not None and (not layers or not set(layers) <= set(range(count))):
        raise ConfigError(
            f"adapter.init_args.layers is {layers}, but {type(model).__name__} has {count} layers; expected indices "
            f"from 0 to {count - 1}, or null for all"
        )


def _check_targets(model: nn.Module, targets: str | list[str]) -> None:
    if targets == "all-linear":
        return
    known = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules() if name}
    full = [name for name, _ in model.named_modules()]
    for target in [targets] if isinstance(targets, str) else targets:
        if target in known or any(name == target or name.endswith("." + target) for name in full):
            continue
        linear = _linear_names(model)
        near = difflib.get_close_matches(target, linear, n=1)
        raise ConfigError(
            f"adapter.init_args.target_modules: {target!r} is not in {type(model).__name__}; "
            + (f"did you mean {near[0]!r}? " if near else "")
            + f"It has {', '.join(linear)}, or say all-linear"
        )

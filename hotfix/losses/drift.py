"""How far a LoRA patch has moved the base's weights, without ever making a full weight matrix."""

from __future__ import annotations

from typing import cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from hotfix.errors import ConfigError

__all__ = ["low_rank_drift", "low_rank_norm"]


def low_rank_norm(down: Tensor, up: Tensor) -> Tensor:
    """Return the squared Frobenius norm of `up down`: [r, I], [O, r] -> [].

    It is the sum of (up^T up) * (down down^T), two [r, r] matrices.

    >>> low_rank_norm(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [2.0]]))
    tensor(125.)
    """
    return ((up.T @ up) * (down @ down.T)).sum()


def low_rank_drift(model: nn.Module) -> Tensor:
    """Return the squared distance of a LoRA model's weights from its base's, float32 [].

    Raises:
        ConfigError: the model's adapter isn't plain LoRA, so this is not its weight change.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    found = [_of_layer(layer, name) for layer in layers for name in layer.active_adapters if name in layer.lora_A]
    if not found:
        raise ConfigError(
            f"{type(model).__name__}'s adapter has no weights of its own beside the base's, so L2Anchor has nothing to "
            "hold; use hotfix.adapters.LoRA or FullFineTuning, or remove the term"
        )
    return torch.stack(found).sum()


def _of_layer(layer: LoraLayer, name: str) -> Tensor:
    down, up = (cast("Tensor", factors[name].weight).float() for factors in (layer.lora_A, layer.lora_B))
    if layer.use_dora.get(name) or down.ndim != 2:
        raise ConfigError(
            "L2Anchor knows the weight change of plain LoRA on linear layers only; set adapter.init_args.dora to "
            "false, or use KLToReference to hold the patch to the base"
        )
    return low_rank_norm(down, up) * float(layer.scaling[name]) ** 2

"""What the layers of a model are called that an adapter may be put on."""

from __future__ import annotations

import difflib

from torch import nn
from transformers import PreTrainedModel

from hotfix.errors import ConfigError

__all__ = ["check_layers", "check_targets", "linear_names"]


def linear_names(model: nn.Module) -> list[str]:
    """Return the last parts of the names of all linear layers but the head, sorted."""
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    found = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        # GPT-2's layers are a Conv1D of its own, linear all the same.
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D") and module is not head
    }
    return sorted(found)


def check_layers(model: PreTrainedModel, layers: list[int] | None) -> None:
    """Refuse indices of decoder blocks that the model doesn't have.

    Raises:
        ConfigError: with the indices that it has.
    """
    count = model.config.get_text_config().num_hidden_layers
    if layers is not None and (not layers or not set(layers) <= set(range(count))):
        raise ConfigError(
            f"adapter.init_args.layers is {layers}, but {type(model).__name__} has {count} layers; expected indices "
            f"from 0 to {count - 1}, or null for all"
        )


def check_targets(model: nn.Module, targets: str | list[str], key: str = "target_modules") -> None:
    """Refuse names of layers that the model doesn't have.

    Args:
        model: to look in.
        targets: names, or last parts of names; `all-linear` always fits.
        key: of the setting.

    Raises:
        ConfigError: with the nearest name, and all linear layers.
    """
    if targets == "all-linear":
        return
    known = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules() if name}
    full = [name for name, _ in model.named_modules()]
    for target in [targets] if isinstance(targets, str) else targets:
        if target in known or any(name == target or name.endswith("." + target) for name in full):
            continue
        linear = linear_names(model)
        near = difflib.get_close_matches(target, linear, n=1)
        raise ConfigError(
            f"adapter.init_args.{key}: {target!r} is not in {type(model).__name__}; "
            + (f"did you mean {near[0]!r}? " if near else "")
            + f"It has {', '.join(linear)}"
            + (", or say all-linear" if key == "target_modules" else "")
        )

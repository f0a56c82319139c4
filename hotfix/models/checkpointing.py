"""Gradient checkpointing: a block keeps nothing for its gradient but what entered it, and is computed anew."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from hotfix.models.layout import find_blocks

__all__ = ["checkpoint_blocks", "compute_anew", "is_checkpointed"]


def checkpoint_blocks(base: PreTrainedModel) -> None:
    """Have the blocks of a base, and of a policy on it, checkpointed wherever `compute_anew` was called."""
    base.gradient_checkpointing_enable({"use_reentrant": False})


def compute_anew(decoder: nn.Module) -> None:
    """Let checkpointing begin, which heeds a block's training mode; what is inside a block keeps its own mode."""
    for block in find_blocks(decoder).blocks:
        block.training = True


def is_checkpointed(decoder: nn.Module) -> bool:
    """Return whether its blocks run a second time, outside of any context that they ran in first."""
    return bool(getattr(decoder, "gradient_checkpointing", False))

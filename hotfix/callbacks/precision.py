"""Measuring in float32 what is trained in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["widened"]


@contextmanager
def widened(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Hold the model's floating-point weights in `dtype` for a while; None changes nothing.

    In bfloat16, two tokens often have the same logit, and a patch that changes nothing flips greedy decoding between
    them. Widening is exact, and so is the way back.
    """
    kept: dict[torch.Tensor, torch.dtype] = {}
    if dtype is not None:
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point() and tensor.dtype.itemsize < dtype.itemsize:
                kept[tensor] = tensor.dtype
                tensor.data = tensor.data.to(dtype)
    try:
        yield
    finally:
        for tensor, before in kept.items():
            tensor.data = tensor.data.to(before)

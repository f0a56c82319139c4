"""Running a part of a decoder: up to a block, or from one on; and what enters a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from hotfix.models.layout import find_blocks

__all__ = ["entering_block", "from_block", "lower_blocks", "upper_blocks"]


@contextmanager
def entering_block(decoder: nn.Module, block: int) -> Iterator[list[Tensor]]:
    """Collect what enters a block, [B, T, D], once for each time that it runs."""
    entered: list[Tensor] = []

    def catch(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        entered.append(args[0] if args else kwargs["hidden_states"])

    handle = find_blocks(decoder).blocks[block].register_forward_pre_hook(catch, with_kwargs=True)
    try:
        yield entered
    finally:
        handle.remove()


@contextmanager
def from_block(decoder: nn.Module, first: int, entering: Tensor) -> Iterator[None]:
    """Run the decoder from block `first` on, and let `entering` enter there, whatever the decoder is given.

    What enters is no embedding: GPT-2 would add its positions to it, Gemma 2 scale it.
    """

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            return (entering, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": entering}

    handle = find_blocks(decoder).blocks[first].register_forward_pre_hook(enter, with_kwargs=True)
    try:
        with upper_blocks(decoder, first):
            yield
    finally:
        handle.remove()


@contextmanager
def upper_blocks(decoder: nn.Module, first: int) -> Iterator[None]:
    """Run the decoder from block `first` on: what is given as embeddings enters there."""
    place = find_blocks(decoder)
    whole = place.blocks
    config: Any = getattr(decoder, "config", None)
    # Where blocks are of several kinds, decoders look a block's kind up by its place in the list.
    kinds = getattr(config, "layer_types", None)
    setattr(place.parent, place.name, whole[first:])
    if kinds is not None:
        config.layer_types = kinds[first:]
    try:
        yield
    finally:
        setattr(place.parent, place.name, whole)
        if kinds is not None:
            config.layer_types = kinds


@contextmanager
def lower_blocks(decoder: nn.Module, count: int) -> Iterator[None]:
    """Run only the decoder's first `count` blocks, when nothing above is looked at."""
    place = find_blocks(decoder)
    whole = place.blocks
    setattr(place.parent, place.name, whole[:count])
    try:
        yield
    finally:
        setattr(place.parent, place.name, whole)

"""Where a decoder's parts are, found by structure rather than by the model's name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from hotfix.errors import ModelError

__all__ = ["BlockList", "find_blocks", "lowest_trained_block", "upper_blocks"]


class BlockList:
    """The list of a decoder's blocks and where it hangs.

    Args:
        parent: module that has the list as an attribute.
        name: the attribute.
    """

    def __init__(self, parent: nn.Module, name: str) -> None:
        self.parent, self.name = parent, name

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks, first to last."""
        found = getattr(self.parent, self.name)
        assert isinstance(found, nn.ModuleList)
        return found


def find_blocks(decoder: nn.Module) -> BlockList:
    """Return the longest list of equal modules in a decoder, its blocks.

    Raises:
        ModelError: there is none.
    """
    found = [
        (len(child), parent, name)
        for parent in decoder.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len({type(block) for block in child}) == 1
    ]
    if not found:
        raise ModelError(f"{type(decoder).__name__} has no list of decoder blocks that hotfix can find")
    _, parent, name = max(found, key=lambda item: item[0])
    return BlockList(parent, name)


def lowest_trained_block(decoder: nn.Module) -> int:
    """Return the index of the first block with a trained weight; the number of blocks where none has one."""
    blocks = find_blocks(decoder).blocks
    trained = (i for i, block in enumerate(blocks) if any(p.requires_grad for p in block.parameters()))
    return next(trained, len(blocks))


@contextmanager
def upper_blocks(decoder: nn.Module, first: int) -> Iterator[None]:
    """Run the decoder from block `first` on: what is given as embeddings enters there."""
    place = find_blocks(decoder)
    whole = place.blocks
    setattr(place.parent, place.name, whole[first:])
    try:
        yield
    finally:
        setattr(place.parent, place.name, whole)

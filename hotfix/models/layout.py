"""Where a decoder's parts are, found by structure rather than by the model's name."""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hotfix.errors import ModelError

__all__ = [
    "BlockList",
    "Projection",
    "attention_output",
    "feed_forward_output",
    "find_blocks",
    "lowest_trained_block",
]

_ATTENTION = ("attn", "attention")


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


class Projection(NamedTuple):
    """A linear map of a block that writes into the residual stream.

    Attributes:
        name: of its weight, as in the model's `named_parameters`.
        module: an `nn.Linear`, or GPT-2's `Conv1D`, which holds its weight transposed.
        block: index of the block.
    """

    name: str
    module: nn.Module
    block: int

    @property
    def transposed(self) -> bool:
        """Whether the weight is held as [I, O]."""
        return isinstance(self.module, Conv1D)

    @property
    def weight(self) -> Tensor:
        """The weight as [O, I], whichever way it is held; a view."""
        weight = cast("Tensor", self.module.weight)
        return weight.T if self.transposed else weight


def feed_forward_output(model: nn.Module, block: int) -> Projection:
    """Return the last linear map of a block's feed-forward part, whose columns write to the residual stream.

    Args:
        model: a causal language model of transformers, without an adapter.
        block: index of the block, from 0.

    Raises:
        ModelError: there is no such block, its feed-forward part isn't one matrix (a mixture of experts), or the
            matrix is quantised.
    """
    return _output(model, block, "feed-forward", in_attention=False)


def attention_output(model: nn.Module, block: int) -> Projection:
    """Return the linear map behind a block's attention; see `feed_forward_output`."""
    return _output(model, block, "attention", in_attention=True)


def _output(model: nn.Module, block: int, part: str, in_attention: bool) -> Projection:
    place = find_blocks(model)
    blocks = place.blocks
    if not 0 <= block < len(blocks):
        raise ModelError(f"there is no block {block}; {type(model).__name__} has {len(blocks)}, from 0")
    found = [
        (name, module)
        for name, module in blocks[block].named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and any(mark in name.lower() for mark in _ATTENTION) == in_attention
        and _out_features(module) == model.config.get_text_config().hidden_size  # type: ignore[union-attr,operator]
    ]
    # A block's maps are registered in the order in which they are applied; in attention the first are of the queries.
    if not found or (not in_attention and len(found) > 1):
        raise ModelError(
            f"the {part} part of block {block} of {type(model).__name__} has {len(found)} linear maps to the residual "
            "stream, expected one; models with a mixture of experts can't be edited"
        )
    name, module = found[-1]
    if not module.weight.is_floating_point():
        raise ModelError(
            f"{name} of block {block} is quantised; edit the model in float32 or bfloat16, and quantise it then"
        )
    weight = module.weight
    full = next((n for n, p in model.named_parameters(remove_duplicate=False) if p is weight), None)
    if full is None:
        raise ModelError(f"{name} of block {block} is none of the model's own weights; take the adapter off first")
    return Projection(full, module, block)


def _out_features(module: nn.Linear | Conv1D) -> int:
    return module.nf if isinstance(module, Conv1D) else module.out_features

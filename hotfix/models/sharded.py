"""A frozen base cut up over processes by PyTorch's FSDP2: each holds a part of every block's weights.

A block's weights are gathered when it runs, in the forward and in the backward pass, and dropped behind it. So every
process has to run the same blocks equally often, or the others wait for ever. What trains stays whole everywhere: it is
small, and checkpoints, patches and optimizers see ordinary weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from hotfix.errors import ConfigError
from hotfix.models.layout import find_blocks
from hotfix.models.states import plain_model

__all__ = ["is_sharded", "shard_frozen", "whole", "whole_state"]


def shard_frozen(model: nn.Module, mesh: DeviceMesh) -> list[str]:
    """Cut the frozen weights of all blocks into equal parts, one a process.

    They are moved to the mesh's device block by block, so no device ever holds all of them.

    Args:
        model: a causal language model, with its adapter.
        mesh: of one dimension, over all processes.

    Returns:
        The names of the weights that were cut, as in `named_parameters`.

    Raises:
        ConfigError: nothing is frozen, or the frozen weights are quantised.
    """
    decoder = plain_model(model).get_decoder()
    blocks = find_blocks(decoder).blocks
    frozen = {name: p for name, p in blocks.named_parameters() if not p.requires_grad}
    if not frozen:
        raise ConfigError(
            "ShardedBase cuts up what is frozen, but every weight of the base trains; use LoRA or another adapter, or "
            "configs/overlay/ddp.yaml"
        )
    quantised = next((name for name, p in frozen.items() if not p.is_floating_point()), None)
    if quantised is not None:
        raise ConfigError(
            f"ShardedBase can't cut up quantised weights (block weight {quantised}); use LoRA in place of QLoRA, or "
            "configs/overlay/ddp.yaml"
        )
    trained = {p for p in model.parameters() if p.requires_grad}
    beside = set(model.parameters()) - set(blocks.parameters())
    for block in blocks:
        fully_shard(block, mesh=mesh, ignored_params=trained)
    # The decoder has no part of its own; it makes the blocks one family, in which the next is gathered ahead.
    fully_shard(decoder, mesh=mesh, ignored_params=trained | beside)
    return [name for name, p in model.named_parameters() if isinstance(p, DTensor)]


def is_sharded(model: nn.Module) -> bool:
    """Whether some of its weights are parts only, at this moment."""
    return any(isinstance(p, DTensor) for p in model.parameters())


def whole_state(model: nn.Module) -> dict[str, Tensor] | None:
    """Return the `state_dict` of a model inside `whole`: its own method would cut it up again. Else None."""
    if not any(isinstance(module, FSDPModule) for module in model.modules()):
        return None
    copies: dict[int, Tensor] = {}
    held = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    # A tied weight stays one tensor.
    found = {name: copies.setdefault(id(tensor), tensor.detach().clone()) for name, tensor in held}
    return {name: found[name] for name in model.state_dict()}


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Have all weights on every process for a while, so that each may run what it likes; of others, change nothing.

    All processes have to come here, and each needs the room for the whole base.
    """
    parts = [m for m in model.modules() if isinstance(m, FSDPModule)] if is_sharded(model) else []
    # Tensors made in inference mode could never be trained with again.
    with torch.inference_mode(False):
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()

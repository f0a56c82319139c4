"""Data-parallel training of a small adapter on a base that no single device has to hold."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from hotfix.errors import ConfigError
from hotfix.models.rows import TokenRows
from hotfix.models.sharded import shard_frozen, whole
from hotfix.models.states import takes_masks
from hotfix.modules import FineTune

__all__ = ["ShardedBase", "check_shardable"]


class ShardedBase(DDPStrategy):
    """Cuts the frozen base up over all processes (FSDP2), and averages the adapter's gradients as DDP does.

    The adapter is whole on every process, so a checkpoint is the same single file as of one process, and any number of
    processes can go on from it. Measuring needs the whole base on each device, because processes measure examples of
    their own; where it has no room, set the tasks under `measure` to null and measure the saved patch elsewhere.

    Args:
        init_args: as of Lightning's DDPStrategy.
    """

    def __init__(self, **init_args: object) -> None:
        super().__init__(**init_args)  # type: ignore[arg-type]
        self._looking = ExitStack()

    def model_to_device(self) -> None:
        """Cut up first, block by block: the whole base need never be on the device."""
        module = self.lightning_module
        if module is not None and module.trainer.state.fn == TrainerFn.FITTING:
            policy = check_shardable(module, module.trainer.datamodule.max_length)  # type: ignore[attr-defined]
            mesh = init_device_mesh(self.root_device.type, (self.world_size,))
            cut = [f"model.{name}" for name in shard_frozen(policy, mesh)]
            # DDP would send every weight from the first process to the others, and can't send parts.
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, cut)
        super().model_to_device()

    def on_validation_start(self) -> None:
        """Processes have batches of their own, and not equally many."""
        module = self.lightning_module
        if isinstance(module, FineTune):
            self._looking.enter_context(whole(module.policy))

    def on_validation_end(self) -> None:
        """Go on in parts."""
        self._looking.close()


def check_shardable(module: LightningModule, max_length: int) -> nn.Module:
    """Return the model that is to be cut up.

    Args:
        module: of the run.
        max_length: longest side of a pair, in tokens.

    Raises:
        ConfigError: processes couldn't run it together.
    """
    name = "trainer.strategy: ShardedBase"
    if not isinstance(module, FineTune):
        raise ConfigError(
            f"{name} is for hotfix.modules.FineTune, which trains an adapter, but model.class_path is "
            f"{type(module).__name__}; leave it out"
        )
    longest = torch.zeros(1, 2 * max_length, dtype=torch.long)  # a row has both sides of a pair
    if not takes_masks(module.policy, TokenRows(longest, longest, longest)):
        raise ConfigError(
            f"{name} needs each row in one pass, but {module.model_name} takes no mask of ours, or its attention "
            f"window is shorter than rows may be; lower data.init_args.max_length ({max_length}), or use "
            "configs/overlay/ddp.yaml"
        )
    return module.policy

"""Hotfixing by fine-tuning: a frozen base, an adapter, an objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from hotfix.adapters import Adapter, FullFineTuning, LoRA
from hotfix.adapters.first_pass import Kind, first_pass
from hotfix.adapters.kept_findings import KeptFindings
from hotfix.data.loader import PairLoader
from hotfix.data.packing import Batch
from hotfix.errors import ConfigError, PatchError
from hotfix.losses import ModelPasses, Objective
from hotfix.losses.base_states import BaseStates
from hotfix.losses.drift import low_rank_drift
from hotfix.models.checkpointing import checkpoint_blocks, compute_anew
from hotfix.models.fingerprint import fingerprint
from hotfix.models.loading import Dtype, load_causal_lm
from hotfix.models.sharded import is_sharded
from hotfix.models.states import check_halves, plain_model
from hotfix.modules.base import HotfixModule
from hotfix.patches import AdapterPatch, Patch, Provenance, WeightDelta, load_patch

__all__ = ["FineTune", "linear_schedule"]


class FineTune(HotfixModule):
    """Trains an adapter on pairs; the reference is the same model with the adapter switched off.

    Args:
        objective: what is minimised.
        adapter: which weights train; LoRA on all linear layers if not given.
        model_name: `smollm2-135m`, a local folder or a Hugging Face id.
        dtype: of the frozen base; `auto` is bfloat16 where the hardware multiplies it. Adapters are float32.
        learning_rate: of AdamW, at its peak; null for the adapter's own.
        warmup_steps: optimizer steps of linear rise from zero; after them it falls linearly to zero.
        weight_decay: of AdamW.
        cache_base: MiB that the frozen base's hidden states of the training rows may take; they are computed once, kept
            in the cache folder for the next run, and steps run only the blocks from the lowest adapted one on. 0
            computes everything anew in each step.
        patch: folder of a saved patch to measure or predict with (`hotfix test`, `hotfix predict`).
        gradient_checkpointing: compute each block anew for its gradient: less memory, about a third more time.
    """

    def __init__(
        self,
        objective: Objective,
        adapter: Adapter | None = None,
        model_name: str = "smollm2-135m",
        dtype: Dtype = "auto",
        learning_rate: float | None = None,
        warmup_steps: int = 0,
        weight_decay: float = 0.0,
        cache_base: int = 2048,
        patch: str | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.adapter = adapter or LoRA()
        self.learning_rate = self.adapter.learning_rate if learning_rate is None else learning_rate
        _check_settings(self.adapter, self.learning_rate, dtype, gradient_checkpointing)
        self.model_name = model_name
        self.dtype_name: Dtype = "float32" if self.adapter.float32 else dtype
        self.warmup_steps = warmup_steps
        self.weight_decay = weight_decay
        self.cache_base = cache_base
        self.patch_folder = patch
        self.gradient_checkpointing = gradient_checkpointing
        # Checkpoints hold the adapter's weights only; the frozen base is named and checked by its fingerprint.
        self.strict_loading = False
        self._base_states: BaseStates | None = None
        self._patch: Patch | None = None
        self._rng: Tensor | None = None

    def configure_model(self) -> None:
        """Load the base and put the adapter on; Lightning calls it once a process, before anything runs."""
        if self.model is not None:
            return
        patch = None if self.patch_folder is None else load_patch(Path(self.patch_folder))
        bits = self.adapter.bits if patch is None else patch.provenance.base_bits
        base = load_causal_lm(self.model_name, self.dtype_name, bits, self._device_of_run())
        self._check_context(base)
        self.base_fingerprint = fingerprint(base)
        check_halves(base)
        if patch is not None:
            self.model, self._patch = patch.apply(base), patch
        else:
            # The adapter's first weights must not depend on what else drew random numbers before.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._seed())
                self.model = self.adapter.attach(base)
        if self.gradient_checkpointing:
            checkpoint_blocks(base)
        self.model.eval()

    def reference(self) -> AbstractContextManager[None]:
        """Context in which the model is the frozen base."""
        return self._reference_of(self.policy)

    def on_train_end(self) -> None:
        """Free them."""
        self._base_states = None

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return the objective of a batch of any split and, by name, its unweighted terms, float32 [] each."""
        return cast("Mapping[str, Tensor]", self.objective(self._passes(batch)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the weighted sum; log every unweighted term."""
        self._train_mode()
        passes = self._passes(batch, self._base_states)
        together = passes.ahead(self._kinds()) if is_sharded(self.policy) else 0.0
        values = self.objective(passes)
        self.log_dict(
            {f"train/{name}": value.detach() for name, value in values.items()},
            prog_bar=True,
            batch_size=max(1, len(batch.keys)),
            sync_dist=self.trainer.world_size > 1,
        )
        return self._with_gradient(cast("Tensor", values["loss"]) + together)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log every unweighted term on unseen pairs."""
        self.log_dict(
            {f"val/{name}": value for name, value in self.losses(batch).items()},
            batch_size=max(1, len(batch.keys)),
            sync_dist=self.trainer.world_size > 1,
        )

    test_step = validation_step

    def configure_optimizers(self) -> Any:  # noqa: ANN401  Lightning's own type is a union of ten
        """AdamW on what trains, linear rise and fall of the learning rate."""
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=self.weight_decay)
        total = self.trainer.estimated_stepping_batches
        schedule = LambdaLR(optimizer, partial(linear_schedule, warmup=self.warmup_steps, total=total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the adapter's weights, and what is needed to go on exactly."""
        kept = {f"model.{name}" for name in self.adapter.kept_weights(self.policy)}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}
        checkpoint["hotfix"] = {"base_fingerprint": self.base_fingerprint, "base_model": self.model_name}
        checkpoint["rng"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another base model."""
        made_for = checkpoint.get("hotfix", {})
        if made_for.get("base_fingerprint") != self.base_fingerprint:
            raise PatchError(
                f"the checkpoint was made for {made_for.get('base_model', 'an unknown model')} (weights "
                f"{str(made_for.get('base_fingerprint'))[:12]}), but model.init_args.model_name is {self.model_name} "
                f"(weights {self.base_fingerprint[:12]}); name the same model, or start without --ckpt_path"
            )
        self._rng = checkpoint["rng"]

    def on_train_start(self) -> None:
        """Let the base see the training rows; go on from where the checkpoint was taken."""
        loader = self.trainer.train_dataloader
        if isinstance(loader, PairLoader):
            self._see_rows(loader)
        if self._rng is not None:
            # Lightning moves the loader to its place while it sets it up. Counting the steps for the schedule did that
            # before the place was known.
            self.trainer.fit_loop._load_combined_loader_states()
            torch.set_rng_state(self._rng)
            self._rng = None

    def gates(self) -> tuple[str, ...]:
        """See `HotfixModule`."""
        return () if self._patch is None else tuple(self._patch.provenance.gates)

    def make_patch(self, **provenance: Any) -> Patch:  # noqa: ANN401  fields of Provenance
        """Return what was trained as a patch."""
        described = Provenance(
            method=f"{type(self.adapter).__module__}.{type(self.adapter).__qualname__}",
            base_model=self.model_name,
            base_fingerprint=self.base_fingerprint,
            base_bits=self.adapter.bits,
            **provenance,
        )
        if isinstance(self.policy, PeftModel):
            return AdapterPatch(described, model=self.policy)
        return WeightDelta(described, changes={n: p for n, p in self.policy.named_parameters() if p.requires_grad})

    def _reference_of(self, model: nn.Module) -> AbstractContextManager[None]:
        return self.adapter.reference(model) if self._patch is None else self._patch.reference(model)

    def _passes(self, batch: Batch, base: BaseStates | None = None) -> ModelPasses:
        drift = self.adapter.squared_drift if isinstance(self.adapter, FullFineTuning) else low_rank_drift
        return ModelPasses(self.policy, batch, self._reference_of, base, drift)

    def _device_of_run(self) -> torch.device:
        """Where the trainer will move the model: a quantised one can't be moved any more."""
        return self.device if self._trainer is None else self._trainer.strategy.root_device

    def _see_rows(self, loader: PairLoader) -> None:
        """Let the frozen base see every training row once, if the rows are known and few enough."""
        rows = loader.pairs, loader.retain
        starting = self.adapter.starting(self.policy, *rows) if self._rng is None else []
        keeps = self.cache_base and loader.layout == "packed"
        states = BaseStates.planned(self.policy, *rows, self.cache_base) if keeps else None
        watchers = [*starting, *([states] if states else [])]
        first_pass(self.policy, self.adapter.reference, *rows, watchers, self._kept_findings())
        self._base_states = states if states and states.serves(self.adapter.reference, loader.pairs) else None

    def _kinds(self) -> tuple[Kind, ...]:
        """What rows a step may have, on any process."""
        loader = self.trainer.train_dataloader
        return ("pairs",) if isinstance(loader, PairLoader) and not loader.retain_size else ("pairs", "retain")

    def _kept_findings(self) -> KeptFindings | None:
        """Where the pass is kept; not with a cache of nothing, which says to compute everything anew."""
        # Processes that share a base's parts have to run it together: all of them, or none. Nodes may have disks of
        # their own, of which one has the file.
        apart = is_sharded(self.policy) and self.trainer.num_nodes > 1
        if not self.cache_base or apart:
            return None
        base = {
            "base": self.base_fingerprint,
            "precision": str(plain_model(self.policy).dtype),
            "bits": str(self.adapter.bits),
            "device": self.device.type,
        }
        return KeptFindings(base, writes=self.trainer.is_global_zero)

    def _check_context(self, base: PreTrainedModel) -> None:
        data = getattr(self._trainer, "datamodule", None)
        context = getattr(base.config.get_text_config(), "max_position_embeddings", None)
        if data is not None and context is not None and data.max_length > context:
            raise ConfigError(
                f"data.init_args.max_length is {data.max_length}, but {self.model_name} has a context of {context} "
                "tokens; lower it"
            )

    def _train_mode(self) -> None:
        """Dropout on in the adapter only: the frozen base has to be the same function as in the reference pass."""
        self.policy.eval()
        for module in self.policy.modules():
            own = any(p.requires_grad for p in module.parameters(recurse=False))
            in_adapter = [m for m in module.modules() if m is not module] if isinstance(module, BaseTunerLayer) else []
            for part in [module] * own + [m for m in in_adapter if isinstance(m, nn.Dropout)]:
                part.training = True
        if self.gradient_checkpointing:
            compute_anew(plain_model(self.policy).get_decoder())

    def _with_gradient(self, loss: Tensor) -> Tensor:
        """Tie a loss of nothing (no token of the micro-batch is in scope) to the weights: all processes go backward."""
        if loss.requires_grad:
            return loss
        return loss + 0.0 * torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum()

    def _seed(self) -> int:
        return torch.initial_seed() % 2**32


def _check_settings(adapter: Adapter, learning_rate: float, dtype: Dtype, gradient_checkpointing: bool) -> None:
    """Refuse what can't work together before anything is loaded."""
    kind = type(adapter).__name__
    if learning_rate <= 0:
        raise ConfigError(f"model.init_args.learning_rate is {learning_rate}, expected more than 0")
    if adapter.float32 and dtype not in ("auto", "float32"):
        raise ConfigError(
            f"model.init_args.dtype is {dtype}, but {kind} trains the base's own weights, whose steps {dtype} can't "
            "tell apart; say auto, and --trainer.precision bf16-mixed for the speed"
        )
    if gradient_checkpointing and not adapter.checkpointing:
        raise ConfigError(
            f"model.init_args.gradient_checkpointing is on, but it drops the keys and values that {kind} puts before "
            "the rows; turn it off, or choose another adapter"
        )


def linear_schedule(step: int, warmup: int, total: float) -> float:
    """Return the learning rate's factor: up to 1 in `warmup` steps, then down to 0 at `total`, infinite for no end.

    >>> [linear_schedule(s, 2, 4) for s in range(5)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    if math.isinf(total):
        return 1.0
    return max(0.0, (total - step) / max(1, total - warmup))

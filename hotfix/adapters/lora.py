"""Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685), its variants as options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from peft import LoraConfig, PeftModel, TaskType
from torch import nn
from transformers import PreTrainedModel

from hotfix.adapters.base import PeftAdapter
from hotfix.adapters.contrastive import ContrastiveStart
from hotfix.adapters.first_pass import Watcher
from hotfix.adapters.targets import check_layers, check_targets, linear_names
from hotfix.data.encode import EncodedPair
from hotfix.errors import ConfigError

__all__ = ["LoRA"]


class LoRA(PeftAdapter):
    """Adds `alpha / rank * B A` to chosen linear layers; B starts at zero, so training starts at the base.

    Args:
        rank: of the update.
        alpha: scale; the update is multiplied by `alpha / rank`.
        dropout: of the layer's input, on the adapter's path only.
        target_modules: names of the layers, by their last part (`q_proj`), or `all-linear` for all but the head.
        layers: indices of the decoder blocks to adapt; null for all.
        init: of A. `random` as in the paper; `contrastive` reads, from the first step on, where the inputs at edited
            tokens differ from retain text (see `hotfix.adapters.contrastive`): more is learnt for the same drift.
        freeze_a: train B only (LoRA-FA, Zhang et al. 2023, https://arxiv.org/abs/2308.03303): the update then reads the
            same inputs throughout, which pays where `init` chose them; a little faster.
        dora: learn each row's length apart from its direction (DoRA, Liu et al. 2024, https://arxiv.org/abs/2402.09353,
            eq. 5): nearer to full fine-tuning, at about twice the time.
        rslora: scale by `alpha / sqrt(rank)` (rsLoRA, Kalajdzievski 2023, https://arxiv.org/abs/2312.03732), so that
            the learning rate needn't change with the rank.
    """

    def __init__(
        self,
        rank: int = 8,
        alpha: int = 16,
        dropout: float = 0.0,
        target_modules: str | list[str] = "all-linear",
        layers: list[int] | None = None,
        dora: bool = False,
        rslora: bool = False,
        init: Literal["random", "contrastive"] = "random",
        freeze_a: bool = False,
    ) -> None:
        if rank < 1:
            raise ConfigError(f"adapter.init_args.rank is {rank}, expected at least 1")
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.target_modules = target_modules
        self.layers = layers
        self.dora = dora
        self.rslora = rslora
        self.init = init
        self.freeze_a = freeze_a

    def attach(self, model: PreTrainedModel) -> PeftModel:
        """Wrap the model; adapter weights are float32 whatever the base's precision."""
        found = super().attach(model)
        for name, parameter in found.named_parameters():
            if self.freeze_a and "lora_A" in name:
                parameter.requires_grad_(False)
            if "lora_magnitude_vector" in name:
                # Each pass measures the rows in the base's precision; a start between its steps wouldn't be the base.
                parameter.data = parameter.data.to(model.dtype).float()
        return found

    def config(self, model: PreTrainedModel) -> LoraConfig:
        """Return peft's configuration, after checking that every target is in the model."""
        check_targets(model, self.target_modules)
        check_layers(model, self.layers)
        targets = self.target_modules
        # peft reads any other plain text as a regular expression of whole names.
        targets = [targets] if isinstance(targets, str) and targets != "all-linear" else targets
        return LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            # all-linear and a choice of layers exclude each other in peft, so the names are written out.
            target_modules=linear_names(model) if targets == "all-linear" and self.layers else targets,
            layers_to_transform=self.layers,
            use_dora=self.dora,
            use_rslora=self.rslora,
        )

    def kept_weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return A and B, whether both train or not."""
        return {name: p for name, p in model.named_parameters() if "lora_" in name}

    def starting(
        self, model: nn.Module, pairs: Sequence[EncodedPair], retain: Sequence[Sequence[int]]
    ) -> list[Watcher]:
        """Turn A towards the pairs, where asked for."""
        if self.init == "random":
            return []
        if not pairs or not retain:
            raise ConfigError(
                "adapter.init_args.init is contrastive, which needs training pairs and retain text; set "
                "data.init_args.retain, or init to random"
            )
        return [ContrastiveStart(model, [len(ids) for ids in retain])]

"""Prefix tuning (Li and Liang 2021, https://arxiv.org/abs/2101.00190)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from peft import PeftModel, PrefixTuningConfig, TaskType, initialize_kv_prefix_from_past_key_values
from transformers import PreTrainedModel

from hotfix.adapters.base import PeftAdapter
from hotfix.errors import ConfigError, ModelError
from hotfix.models.states import check_halves, plain_model

__all__ = ["PrefixTuning"]


class PrefixTuning(PeftAdapter):
    """Puts learnt keys and values before every row in every block, eq. 2; doesn't start at the base.

    The keys and values are learnt themselves, without the paper's reparametrisation. They can't be folded into the
    base's weights, and gradient checkpointing would drop them. The learning rate is that of Weyssow et al. 2023
    (https://arxiv.org/abs/2308.10462) for code models of this kind; 1e-2 learns less in the tens of steps of a hotfix.

    Args:
        num_virtual_tokens: length of the prefix.
        start: `activations` begins at the keys and values that the base computes for its first token and random ones
            behind it (section 7.4 of the paper finds real activations better than random numbers, most of all with
            little data); `random` at normal noise, peft's default, which destroys the base's text at first.
    """

    learning_rate: ClassVar[float] = 3e-2
    checkpointing: ClassVar[bool] = False

    def __init__(self, num_virtual_tokens: int = 10, start: Literal["activations", "random"] = "activations") -> None:
        if num_virtual_tokens < 1:
            raise ConfigError(f"adapter.init_args.num_virtual_tokens is {num_virtual_tokens}, expected at least 1")
        self.num_virtual_tokens = num_virtual_tokens
        self.start = start

    def config(self, model: PreTrainedModel) -> PrefixTuningConfig:
        """Return peft's configuration."""
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if context is not None and self.num_virtual_tokens >= context:
            raise ConfigError(
                f"adapter.init_args.num_virtual_tokens is {self.num_virtual_tokens}, but {type(model).__name__} has a "
                f"context of {context} tokens; lower it"
            )
        return PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=self.num_virtual_tokens)

    def attach(self, model: PreTrainedModel) -> PeftModel:
        """Wrap the model; the prefix is float32 whatever the base's precision."""
        found = super().attach(model)
        if self.start == "activations":
            self._start_at_activations(found)
        try:
            check_halves(found)
        except (RuntimeError, IndexError, TypeError) as error:
            raise ModelError(
                f"{type(model).__name__} can't be given keys and values ({error}); use hotfix.adapters.LoRA for it"
            ) from error
        return found

    @torch.no_grad()
    def _start_at_activations(self, model: PeftModel) -> None:
        base = plain_model(model)
        config = base.config.get_text_config()
        ids = torch.randint(0, config.vocab_size, (1, self.num_virtual_tokens))
        first = config.bos_token_id if config.bos_token_id is not None else config.eos_token_id
        if isinstance(first, int) and first < config.vocab_size:
            ids[0, 0] = first
        cache = base(input_ids=ids.to(base.device), use_cache=True).past_key_values
        initialize_kv_prefix_from_past_key_values(model, past_key_values=cache)

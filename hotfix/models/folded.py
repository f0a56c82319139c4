"""A model and its patch as one set of plain weights."""

from __future__ import annotations

import copy
from typing import cast

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from hotfix.errors import ModelError

__all__ = ["folded_copy"]


def folded_copy(model: nn.Module, base: bool = False) -> PreTrainedModel:
    """Return a copy of a model with its adapter folded into the weights, frozen; the model itself stays as it is.

    Args:
        model: with or without an adapter; weights that a patch has put in place are copied as they are.
        base: leave the adapter out instead.

    Raises:
        ModelError: the adapter or the base has no place for it in its weights.
    """
    if getattr(model, "is_quantized", False):
        raise ModelError("a quantised base can't take an adapter in; measure this with the base as it is")
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning and not base:
        raise ModelError("prefix tuning adds keys and values, which no weight can hold; leave this measurement out")
    found = copy.deepcopy(model)
    if isinstance(found, PeftModel):
        prefix = found.active_peft_config.is_prompt_learning
        found = found.get_base_model() if prefix else found.unload() if base else found.merge_and_unload()
    return cast("PreTrainedModel", found.requires_grad_(requires_grad=False).eval())

"""A base model in 4 or 8 bits a weight, through bitsandbytes."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from hotfix.errors import ConfigError

__all__ = ["Bits", "check_library", "load_quantised", "reload_quantised"]

Bits: TypeAlias = Literal[4, 8]


def check_library(bits: int) -> None:
    """Refuse quantised bases where bitsandbytes isn't installed.

    Raises:
        ConfigError: it isn't.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"a base in {bits} bits needs the library bitsandbytes, which isn't installed; run "
            "pip install 'hotfix[qlora]', or train LoRA on the base as it is"
        )


def load_quantised(place: str, bits: Bits, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Load a model with its linear layers but the head in 4-bit NF4, doubly quantised, or in 8-bit (LLM.int8).

    Args:
        place: folder or hub id of the model in full precision.
        bits: 4 (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, section 3) or 8 (Dettmers et al. 2022,
            https://arxiv.org/abs/2208.07339, section 3).
        dtype: of all other weights, and of the products.
        device: where the model stays; 8-bit layers can't be moved afterwards.

    Raises:
        ConfigError: bitsandbytes isn't installed.
    """
    check_library(bits)
    # On a CPU each 8-bit layer tells in each pass that it rounds its input to float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        place, dtype=dtype, quantization_config=_config(bits, dtype), device_map={"": device}
    )
    for layer in model.modules():
        _keep_layout(layer)
    model.eval()
    return model


def reload_quantised(model: PreTrainedModel, bits: Bits, device: torch.device) -> PreTrainedModel:
    """Return a quantised copy of a model in memory."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder))
        return load_quantised(folder, bits, model.dtype, device)


def _config(bits: Bits, dtype: torch.dtype) -> BitsAndBytesConfig:
    options: dict[str, Any] = {"load_in_8bit": True}
    if bits == 4:
        options = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": dtype,
        }
    return BitsAndBytesConfig(**options)


def _keep_layout(layer: Any) -> None:  # noqa: ANN401  a layer of bitsandbytes, which may not be there
    """Stop 4-bit layers on a CPU from repacking their weights in the first pass of inference.

    What they pack for AVX-512 rounds the scales again, so the base would change under the adapter, passes no gradient
    on, so that nothing below the highest layer would train, and refuses layers of odd shapes.
    """
    if hasattr(layer, "support_avx512bf16_for_cpu"):
        layer.support_avx512bf16_for_cpu = False

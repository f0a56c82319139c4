"""A base model in 4 or 8 bits a weight, through bitsandbytes."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from hotfix.errors import ConfigError, ModelError

__all__ = ["Bits", "check_library", "load_quantised", "reload_quantised"]

Bits: TypeAlias = Literal[4, 8]
_BLOCK = 64


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
    """Load a model with its linear layers but the head in 4-bit NF4, doubly quantised, or in 8-bit integers.

    In 8 bits, inputs are rounded as well, row by row. LLM.int8's outlier columns are left out: they are chosen over the
    whole batch, so a token's logits would depend on its neighbours (on SmolLM2-135M by up to 14 in the logit), and a
    reference on what it is computed with. Models of 6.7 billion weights and more may lose by that; take 4 bits there.

    Args:
        place: folder or hub id of the model in full precision.
        bits: 4 (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, section 3) or 8 (Dettmers et al. 2022,
            https://arxiv.org/abs/2208.07339, section 3.1, vector-wise).
        dtype: of all other weights, and of the products.
        device: where the model stays; 8-bit layers can't be moved afterwards.

    Raises:
        ConfigError: bitsandbytes isn't installed.
        ModelError: it would compute this model wrongly on this device.
    """
    check_library(bits)
    # On a CPU each 8-bit layer tells in each pass that it rounds its input to float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        place, dtype=dtype, quantization_config=_config(bits, dtype), device_map={"": device}
    )
    for name, layer in model.named_modules():
        if type(layer).__name__ == "Linear4bit":
            _keep_layout(layer)
            _check_width(name, layer, device)
    model.eval()
    return model


def reload_quantised(model: PreTrainedModel, bits: Bits, device: torch.device) -> PreTrainedModel:
    """Return a quantised copy of a model in memory."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder))
        return load_quantised(folder, bits, model.dtype, device)


def _config(bits: Bits, dtype: torch.dtype) -> BitsAndBytesConfig:
    options: dict[str, Any] = {"load_in_8bit": True, "llm_int8_threshold": 0.0}
    if bits == 4:
        options = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": dtype,
        }
    return BitsAndBytesConfig(**options)


def _keep_layout(layer: Any) -> None:  # noqa: ANN401  a layer of bitsandbytes, which may not be there
    """Stop a 4-bit layer on a CPU from repacking its weights in the first pass of inference.

    What it packs for AVX-512 rounds the scales again, so the base would change under the adapter, passes no gradient
    on, so that nothing below the highest layer would train, and refuses layers of odd shapes.
    """
    layer.support_avx512bf16_for_cpu = False


def _check_width(name: str, layer: Any, device: torch.device) -> None:  # noqa: ANN401  see above
    """Refuse the layers whose 4-bit weights bitsandbytes reads back wrongly: on a CPU it lets no block go over rows."""
    if device.type == "cpu" and layer.in_features % _BLOCK:
        raise ModelError(
            f"{name} has {layer.in_features} inputs, and on a CPU bitsandbytes reads 4-bit weights back wrongly where "
            f"that is no multiple of {_BLOCK}; use 8 bits, hotfix.adapters.LoRA, or a GPU"
        )

"""A name to a model: `smollm2-135m`, `tiny`, a local folder, or a Hugging Face id."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hotfix.errors import ModelError
from hotfix.models.packaged import DEFAULT_MODEL, packaged_model
from hotfix.models.quantised import Bits, load_quantised, reload_quantised
from hotfix.models.tiny import TINY_MODEL, tiny_model, tiny_tokenizer

__all__ = ["Dtype", "choose_dtype", "load_causal_lm", "load_tokenizer"]

log = logging.getLogger(__name__)
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
_T = TypeVar("_T")


def choose_dtype(dtype: Dtype = "auto") -> torch.dtype:
    """Return the dtype of the frozen base; `auto` is bfloat16 where the hardware multiplies it, else float32."""
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def load_causal_lm(
    name: str, dtype: Dtype = "auto", bits: Bits | None = None, device: torch.device | str = "cpu"
) -> PreTrainedModel:
    """Load a decoder-only language model for evaluation.

    Args:
        name: `smollm2-135m` (packaged, downloaded on first use), `tiny` (random, for tests), a folder, or a hub id.
        dtype: of its weights.
        bits: 4 or 8 quantises its linear layers; None leaves them.
        device: where it is put.

    Raises:
        ConfigError: `bits` without the library for it.
        ModelError: there is no such model, or it isn't a causal language model.
    """
    kind, place = choose_dtype(dtype), torch.device(device)
    if name == TINY_MODEL:
        tiny = tiny_model()
        cast("nn.Module", tiny).to(place, kind)
        return reload_quantised(tiny, bits, place) if bits else tiny
    if bits:
        return _load(name, load_quantised, bits=bits, dtype=kind, device=place)
    # The attention is transformers' choice: sdpa where the architecture has it, eager where not (CodeGen, GPT-J).
    model: PreTrainedModel = _load(name, AutoModelForCausalLM.from_pretrained, dtype=kind)
    model.eval()
    cast("nn.Module", model).to(place)
    return model


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer; where it has no padding token, the end-of-text token serves.

    Raises:
        ModelError: there is none.
    """
    if name == TINY_MODEL:
        return tiny_tokenizer()
    tokenizer: PreTrainedTokenizerBase = _load(name, AutoTokenizer.from_pretrained)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load(name: str, load: Callable[..., _T], **options: Any) -> _T:  # noqa: ANN401  passed on to the loader
    place = packaged_model() if name == DEFAULT_MODEL else name
    try:
        return load(place, **options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        looks_local = Path(name).expanduser().is_absolute() or name.startswith((".", "~")) or Path(name).exists()
        what = "this folder holds no model that transformers can load" if looks_local else "no such model here"
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{name}: {what} ({first:.200}); expected {DEFAULT_MODEL}, {TINY_MODEL}, a model folder or a Hugging Face "
            "id in model.init_args.model_name"
        ) from error

"""LoRA on a quantised base (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314)."""

from __future__ import annotations

from typing import Literal

from hotfix.adapters.lora import LoRA
from hotfix.models.quantised import Bits, check_library

__all__ = ["QLoRA"]


class QLoRA(LoRA):
    """LoRA on a base in 4 or 8 bits a weight: a quarter or half of the memory of bfloat16, at some loss of the base.

    The quantised base is the reference, and a saved patch fits that base only. Runs on a CPU as well, without saving
    time there. Settings are in the order of `LoRA`'s.

    Args:
        bits: 4 for NF4 with double quantisation, 8 for vector-wise integers.
        rank: see `LoRA`.
        alpha: see `LoRA`.
        dropout: see `LoRA`.
        target_modules: see `LoRA`.
        layers: see `LoRA`.
        dora: see `LoRA`.
        rslora: see `LoRA`.
        init: see `LoRA`.
        freeze_a: see `LoRA`.

    Raises:
        ConfigError: bitsandbytes isn't installed.
    """

    def __init__(
        self,
        bits: Bits = 4,
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
        check_library(bits)
        super().__init__(rank, alpha, dropout, target_modules, layers, dora, rslora, init, freeze_a)
        self.bits = bits

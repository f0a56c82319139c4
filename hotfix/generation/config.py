"""How completions are drawn: the settings a user writes in YAML."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hotfix.errors import ConfigError

__all__ = ["SamplingConfig"]


@dataclass(frozen=True)
class SamplingConfig:
    """How many completions are drawn for each prompt, and from which distribution.

    The logits are divided by the temperature, then cut to the ``top_k`` likeliest tokens, then to the nucleus of mass
    ``top_p`` of what is left (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751). Tokens that tie at either border
    are all kept.

    Args:
        num_samples: completions for each prompt, at least 1.
        temperature: divisor of the logits; 0 takes the likeliest token (greedy), and all samples of a prompt are equal.
        top_p: mass of the nucleus, in (0, 1]; 1 keeps every token.
        top_k: number of tokens kept; 0 keeps every token.
        max_new_tokens: length at which a completion is cut, in tokens.
        batch_size: completions decoded together; it changes speed and memory only.
    """

    num_samples: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 32
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("num_samples", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"temperature must be 0 (greedy) or a positive number, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be above 0 and at most 1 (which keeps every token), not {self.top_p}")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be 0 (which keeps every token) or positive, not {self.top_k}")

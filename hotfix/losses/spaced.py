"""A part of a scope's tokens, for terms whose price is the head's [tokens, vocabulary] product at each of them."""

from __future__ import annotations

import torch
from torch import Tensor

from hotfix.errors import ConfigError

__all__ = ["check_max_tokens", "spaced"]


def spaced(rows: Tensor, max_tokens: int | None) -> Tensor | None:
    """Return the places of at most `max_tokens` tokens, evenly spaced: [N] -> int64 [M]; None where all are wanted.

    >>> spaced(torch.zeros(9), 3), spaced(torch.zeros(3), 3)
    (tensor([0, 4, 8]), None)
    """
    if max_tokens is None or len(rows) <= max_tokens:
        return None
    return torch.linspace(0, len(rows) - 1, max_tokens, device=rows.device).round().long()


def check_max_tokens(term: str, max_tokens: int | None) -> None:
    """Refuse a limit that leaves nothing.

    Raises:
        ConfigError: it is less than 1.
    """
    if max_tokens is not None and max_tokens < 1:
        raise ConfigError(f"max_tokens of {term} is {max_tokens}, expected at least 1 or null")

"""The input of one forward pass: token rows in which branches of one row can't see each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

__all__ = ["PADDING", "TokenRows"]

PADDING = -1


@dataclass(frozen=True)
class TokenRows:
    """Input of one forward pass.

    Attributes:
        input_ids: int64 [B, T].
        position_ids: int64 [B, T].
        branch: int64 [B, T]; 0 is the shared beginning, 1 and 2 the branches, -1 padding.
    """

    input_ids: Tensor
    position_ids: Tensor
    branch: Tensor

    def to(self, device: torch.device | str) -> Self:
        """Move every tensor."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            branch=self.branch.to(device),
        )

    def attention_mask(self) -> Tensor:
        """Return who may attend to whom, bool [B, 1, T, T]: backwards, within the own branch and the beginning."""
        steps = torch.arange(self.branch.shape[1], device=self.branch.device)
        causal = steps[:, None] >= steps[None, :]
        query, key = self.branch[:, :, None], self.branch[:, None, :]
        visible = causal & (key != PADDING) & ((key == 0) | (key == query))
        # A padded query must see something, or its softmax is NaN and poisons gradients.
        return (visible | ((query == PADDING) & (steps[:, None] == steps[None, :])))[:, None]

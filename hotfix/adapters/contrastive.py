"""Where a LoRA looks at the start: directions in which the inputs at edited tokens differ from ordinary code.

LoRA's A starts as noise, so at first the update moves every token of every text alike, and the retain term has to take
back what the learn term does. Of each layer's input two second moments are known before training: E over the positions
that predict an edited token, R over retain text. The rows of A start as the directions a with the largest

    a E a^T / a (R + ridge) a^T,

the leading generalised eigenvectors. LoRA-Null (https://arxiv.org/abs/2503.02659) starts in R's null space and CorDA
(https://arxiv.org/abs/2406.05223) orients A by R; the numerator adds what the patch is for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate
from typing import cast

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from hotfix.adapters.first_pass import RowBatch, Watcher
from hotfix.functional import generalised_eigenvectors
from hotfix.models.input_moments import InputMoments
from hotfix.models.rows import PADDING

__all__ = ["ContrastiveStart", "contrastive_directions"]

_RIDGE = 0.005
_RETAIN_TOKENS = 8_192  # enough for the moments of layers some thousands wide, with the ridge


def contrastive_directions(edited: Tensor, retain: Tensor, rank: int, ridge: float = _RIDGE) -> Tensor:
    """Return the leading generalised eigenvectors of (edited, retain + ridge), all of one energy.

    Args:
        edited: second moment of the inputs at edited tokens, [D, D].
        retain: second moment of the inputs on retain text, [D, D].
        rank: how many, at most D.
        ridge: added to the diagonal, as a share of its mean.

    Returns:
        [rank, D]; over the edited tokens the mean of |a x|^2 is that of a random start, mean(x^2) / 3.

    >>> edited, retain = torch.diag(torch.tensor([1.0, 1.0])), torch.diag(torch.tensor([1.0, 0.01]))
    >>> row = contrastive_directions(edited, retain, 1)[0]
    >>> abs(row[0].item()) < 1e-6, round(row[1].item() ** 2, 3)
    (True, 0.333)
    """
    rows = generalised_eigenvectors(edited, retain, rank, ridge)
    energy = ((rows @ edited) * rows).sum(1).clamp_min(1e-12)
    rows = rows * (edited.diagonal().mean() / 3 / energy).sqrt()[:, None]
    # They come in order of their ratios; mixed by a fixed rotation none is special, as in a random start.
    mixing = torch.linalg.qr(torch.randn(rank, rank, generator=torch.Generator().manual_seed(0))).Q
    mixed: Tensor = mixing.to(rows) @ rows
    return mixed


class ContrastiveStart(Watcher):
    """Sets every LoRA layer's A from the first pass over the training rows.

    Args:
        model: with its adapter.
        retain: lengths of the retain texts, in tokens.
    """

    def __init__(self, model: nn.Module, retain: Sequence[int]) -> None:
        self._layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
        self._names = [name for name, m in model.named_modules() if isinstance(m, LoraLayer)]
        self._edited, self._ordinary = InputMoments(self._layers), InputMoments(self._layers)
        self._enough = bisect_right(list(accumulate(retain)), _RETAIN_TOKENS) + 1

    def wants(self, batch: RowBatch) -> bool:
        """Pairs, and so many retain texts that the moments are known well enough."""
        return batch.kind == "pairs" or min(batch.places) < self._enough

    def during(self, batch: RowBatch) -> AbstractContextManager[None]:
        """Look at what enters the layers."""
        if batch.kind == "pairs":
            return self._edited.over(batch.edited)
        counted = torch.tensor([place < self._enough for place in batch.places], device=batch.edited.device)
        return self._ordinary.over((batch.rows.branch != PADDING) & counted[:, None])

    @torch.no_grad()
    def finish(self) -> None:
        """Turn A."""
        found: dict[tuple[nn.Module, int], Tensor] = {}
        for layer in self._layers:
            # A layer that no text runs through keeps its random start.
            if layer not in self._edited or layer not in self._ordinary:
                continue
            for name, down in layer.lora_A.items():
                key = self._edited.source(layer), layer.r[name]
                if key not in found:
                    found[key] = contrastive_directions(self._edited[layer], self._ordinary[layer], key[1])
                weight = cast("nn.Linear", down).weight
                weight.copy_(found[key].to(weight))

    def identity(self) -> str:
        """See `Watcher`."""
        ranks = {name: sorted(layer.r.items()) for name, layer in zip(self._names, self._layers, strict=True)}
        return f"contrastive start {(ranks, _RIDGE, _RETAIN_TOKENS)}"

    def findings(self) -> dict[str, Tensor] | None:
        """Every layer's A; None where one kept its random start, which is the seed's and not the rows'."""
        if any(layer not in self._edited or layer not in self._ordinary for layer in self._layers):
            return None
        return {key: weight.detach().clone() for key, weight in self._weights().items()}

    @torch.no_grad()
    def restore(self, findings: Mapping[str, Tensor]) -> None:
        """See `Watcher`."""
        for key, weight in self._weights().items():
            weight.copy_(findings[key].to(weight))

    def _weights(self) -> dict[str, Tensor]:
        return {
            f"{name}.{adapter}": cast("nn.Linear", down).weight
            for name, layer in zip(self._names, self._layers, strict=True)
            for adapter, down in layer.lora_A.items()
        }

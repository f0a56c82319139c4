"""One step's gradient of the requests' loss, for weights that a model wears for the moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from hotfix.editors.rows import TargetRows
from hotfix.models.resume import Entering, resumed
from hotfix.models.states import head_logits, hidden_states
from hotfix.models.weights import swapped_weights

__all__ = ["descend"]


def descend(
    model: PreTrainedModel, worn: Mapping[str, nn.Parameter], batches: Sequence[TargetRows], doors: Sequence[Entering]
) -> float:
    """Add the gradient of the mean over all batches' target tokens of -log p, and return that mean, in nats.

    Args:
        model: frozen.
        worn: what it wears in the place of its weights of these names; the gradients are theirs.
        batches: rows of one pass each; how they are dealt makes no difference.
        doors: what enters the lowest block that wears something, for each batch.
    """
    count = sum(len(rows.token) for rows in batches)
    total = 0.0
    for rows, door in zip(batches, doors, strict=True):
        with swapped_weights(cast("nn.Module", model), worn), resumed(model, door):
            logits = head_logits(model, hidden_states(model, rows.rows)[rows.row, rows.column])
            loss = F.cross_entropy(logits, rows.token, reduction="sum") / count
        loss.backward()
        total += loss.item()
    return total

"""PMET: MEMIT for the feed-forward part alone (Li et al. 2023, https://arxiv.org/abs/2308.08742)."""

from __future__ import annotations

from typing import ClassVar

from transformers import PreTrainedModel

from hotfix.editors.locate_then_edit import Layers, Window
from hotfix.editors.memit import MEMIT
from hotfix.editors.values import Place, Search
from hotfix.models.layout import attention_output, feed_forward_output

__all__ = ["PMET"]


class PMET(MEMIT):
    """Vectors at the outputs of attention and feed-forward part are searched together; only the latter's is written.

    What attention would have to do is thus left out of the weights. Of the value that is missing, each block takes over
    its share by the square root of the number of blocks left.

    Args:
        layers: see `MEMIT`.
        search: of the values. Published for GPT-J: learning_rate 0.2, decay 0.5, clamp 0.75, kl 1.
        weight: see `MEMIT`. Published: 15,000 in all (6,000 for GPT-J).
        ridge: see `MEMIT`.
        window: see `MEMIT`.
        remember: see `MEMIT`.
        hold: see `MEMIT`.
        rounds: see `MEMIT`.
        drift: see `MEMIT`.
    """

    written: ClassVar[str] = "feed-forward"

    def __init__(
        self,
        layers: Layers = None,
        search: Search | None = None,
        weight: float = 0.9,
        ridge: float = 1e-4,
        window: Window = None,
        remember: bool = True,
        hold: int = 0,
        rounds: int = 1,
        drift: float | None = None,
    ) -> None:
        super().__init__(layers, search or Search(steps=30), weight, ridge, window, remember, hold, rounds, drift)

    def place(self, model: PreTrainedModel, block: int) -> Place:
        """Both parts of the block."""
        attention, forward = attention_output(model, block).module, feed_forward_output(model, block).module
        return Place(block, {"attention": attention, self.written: forward})

    def share(self, left: int) -> float:
        """One over the root of the number of blocks left."""
        return float(left**-0.5)

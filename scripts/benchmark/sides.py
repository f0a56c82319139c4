"""A model with a LoRA and an optimizer, for those that train the same pairs in turn; and ours of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import torch
from peft import PeftModel
from torch import Tensor

from hotfix.adapters import LoRA
from hotfix.adapters.first_pass import first_pass
from hotfix.data.encode import EncodedPair
from hotfix.data.loader import PairLoader
from hotfix.data.packing import Batch
from hotfix.losses import NLL, KLToReference, ModelPasses, Objective, Unlikelihood
from hotfix.losses.base_states import BaseStates
from hotfix.models.loading import Dtype, load_causal_lm

__all__ = ["MODEL", "WEIGHTS", "Ours", "Side", "agreed", "three_terms"]

MODEL = "smollm2-135m"
WEIGHTS = {"unlearn": 0.5, "retain": 30.0}


def three_terms(max_tokens: int | None = None) -> Objective:
    """Return learn + unlearn + retain, the last of so many tokens a step; None for all."""
    return Objective(
        NLL(side="fixed", scope="edited"),
        Unlikelihood(side="buggy", scope="edited", first_only=True, weight=WEIGHTS["unlearn"]),
        KLToReference({"fixed": 1.0}, scope="unedited", max_tokens=max_tokens, weight=WEIGHTS["retain"]),
    )


def agreed(own: Tensor, other: Tensor, peer: str) -> str:
    """Return how a note tells of two equal losses.

    Raises:
        SystemExit: they differ by more than 1e-5.
    """
    ours, theirs = own.item(), other.item()
    if abs(ours - theirs) > 1e-5 * max(1.0, abs(theirs)):
        raise SystemExit(f"the losses differ: ours {ours:.7g}, {peer} {theirs:.7g}")
    return f"; losses equal ({ours:.6f} and {theirs:.6f})"


class Side:
    """A model with a LoRA on the linear layers, and an optimizer.

    Args:
        dtype: of the base.
        pairs: to train on.
        batch_size: pairs of a step.
        layers: the blocks that are adapted; None for all.
    """

    def __init__(
        self, dtype: Dtype, pairs: Sequence[EncodedPair], batch_size: int, layers: list[int] | None = None
    ) -> None:
        self.base = load_causal_lm(MODEL, dtype)
        self.adapter = LoRA(rank=8, layers=layers)
        torch.manual_seed(0)
        self.model = self.adapter.attach(self.base)
        assert isinstance(self.model, PeftModel)
        self.model.eval()
        self.pairs = pairs
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            # As after some steps: at the start there is no divergence that could be compared.
            for name, weight in self.model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(0, 0.01, generator=draw)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self.loader = PairLoader(pairs, [], batch_size)
        self.batches = cycle(list(self.loader))

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of a batch."""
        raise NotImplementedError

    def step(self) -> None:
        """Make an optimizer step, on each batch of the first epoch in turn."""
        self._train_on(next(self.batches))

    def epoch(self) -> None:
        """Make the steps of the next epoch."""
        for batch in self.loader:
            self._train_on(batch)

    def _train_on(self, batch: Batch) -> None:
        self.loss(batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Ours(Side):
    """As hotfix trains.

    Args:
        dtype: of the base.
        pairs: to train on.
        batch_size: pairs of a step.
        objective: to train for.
        layers: the blocks that are adapted; None for all.
    """

    def __init__(
        self,
        dtype: Dtype,
        pairs: Sequence[EncodedPair],
        batch_size: int,
        objective: Objective,
        layers: list[int] | None = None,
    ) -> None:
        super().__init__(dtype, pairs, batch_size, layers)
        self.objective = objective
        states = BaseStates.planned(self.model, pairs, [])
        assert states is not None
        first_pass(self.model, self.adapter.reference, pairs, [], [states])
        self.states = states

    def loss(self, batch: Batch) -> Tensor:
        """Return the objective's loss."""
        loss: Tensor = self.objective(ModelPasses(self.model, batch, self.adapter.reference, self.states))["loss"]
        return loss

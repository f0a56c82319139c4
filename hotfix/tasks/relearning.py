"""How soon does the bug come back? The old side is taught again on a few known pairs, and unseen ones are asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from hotfix.adapters import LoRA
from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.encode import EncodedPair
from hotfix.data.packing import pack
from hotfix.errors import ConfigError
from hotfix.metrics import Record
from hotfix.models.folded import folded_copy
from hotfix.models.states import head_logits, hidden_states
from hotfix.spacing import evenly
from hotfix.tasks.base import Example, Slice, Subject, Task
from hotfix.tasks.bug_fix import is_bug
from hotfix.tasks.pair_slices import pair_slices
from hotfix.tasks.probabilities import probabilities
from hotfix.tasks.scoring import pair_log_probs
from hotfix.types import Split

__all__ = ["Lesson", "Relearning", "teach_again"]


class Lesson(NamedTuple):
    """How the old side is taught.

    Attributes:
        steps: of AdamW.
        learning_rate: constant.
        batch_size: pairs of a step, in turn.
        rank: of the LoRA on all linear layers that learns it.
    """

    steps: int
    learning_rate: float = 1e-3
    batch_size: int = 8
    rank: int = 8


def teach_again(model: nn.Module, pairs: Sequence[EncodedPair], lesson: Lesson, seed: int) -> nn.Module:
    """Return the model with an adapter that was trained on the pairs' buggy sides: NLL of their edited tokens.

    Args:
        model: is wrapped; its own weights stay.
        pairs: that are known.
        lesson: how.
        seed: of the adapter's first weights.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        taught = LoRA(rank=lesson.rank, alpha=2 * lesson.rank).attach(model)  # type: ignore[arg-type]
        taught.eval()
        trained = [p for p in taught.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=lesson.learning_rate, weight_decay=0.0)
        for step in range(lesson.steps):
            first = step * lesson.batch_size
            some = [pairs[(first + i) % len(pairs)] for i in range(min(lesson.batch_size, len(pairs)))]
            batch = pack(some).to(trained[0].device)
            assert batch.pairs is not None
            wanted = batch.targets["buggy"].in_scope("edited")
            logits = head_logits(taught, hidden_states(taught, batch.pairs)[wanted.row, wanted.column])
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, wanted.token).backward()
            optimizer.step()
    return taught


class Relearning(Task):
    """Exact probabilities of unseen pairs after the model was taught the buggy sides of some trained ones again.

    A patch that only hides a behaviour gives it back after a few steps (Lynch et al. 2024,
    https://arxiv.org/abs/2402.16835); the unseen contexts tell hidden from gone, since they are not what is taught.
    Before: the base, taught the same. After: the base with the patch folded in.

    Args:
        steps: optimizer steps after which it is asked; a slice each, `steps_5`, ...
        pairs: how many trained pairs are taught, evenly spaced.
        learning_rate: of AdamW, constant.
        batch_size: pairs of one step.
        rank: of the LoRA that learns them.
        examples: at most this many unseen pairs, evenly spaced; null for all.
    """

    def __init__(
        self,
        steps: list[int] | None = None,
        pairs: int = 16,
        learning_rate: float = 1e-3,
        batch_size: int = 8,
        rank: int = 8,
        examples: int | None = None,
    ) -> None:
        self.steps = [5, 20] if steps is None else steps
        if not self.steps or min(self.steps) < 1 or pairs < 1:
            raise ConfigError(f"Relearning: steps are {self.steps} and pairs {pairs}, expected at least 1 of each")
        self.pairs = pairs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.rank = rank
        self.examples = examples
        self._known: list[EncodedPair] = []

    def slices(self, data: HotfixDataModule, split: Split) -> list[Slice]:
        """The unseen pairs, once for each number of steps."""
        self._known = [data.encoder(pair) for pair in evenly(data.pairs("train"), self.pairs, is_bug)]
        depends = [[pair.shared, pair.buggy.ids, pair.buggy.edited] for pair in self._known]
        return [
            part
            for count in self.steps
            for part in pair_slices(f"steps_{count}", data, split, self.examples, depends_on=depends)
            if self._known
        ]

    def observe(
        self, subject: Subject, name: str, items: Sequence[tuple[int, Example]], base: Sequence[Record] | None
    ) -> list[Record]:
        """Teach, and ask."""
        lesson = Lesson(int(name.removeprefix("steps_")), self.learning_rate, self.batch_size, self.rank)
        taught = teach_again(folded_copy(subject.model, base=base is None), self._known, lesson, subject.seed)
        scores = pair_log_probs(taught, [example.payload for _, example in items])
        subject.progress(len(items))
        return [probabilities(score) for score in scores]

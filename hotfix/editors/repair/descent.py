"""Steps down the loss of failing tokens, over chosen matrices: what STAR and SGD share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hotfix.data.edits import EncodedRequest
from hotfix.editors.repair.attribution import Neuron
from hotfix.editors.repair.base import Repair
from hotfix.editors.repair.failures import Judgement, judged, masked_logits
from hotfix.editors.repair.groups import Mode
from hotfix.editors.repair.layers import LayerChoice, chosen_layers
from hotfix.editors.repair.report import Outcome
from hotfix.editors.repair.tail import Entering, entering, resumed
from hotfix.editors.repair.workspace import Workspace
from hotfix.editors.rows import TargetRows
from hotfix.models.states import hidden_states
from hotfix.models.trace import captured

__all__ = ["Course", "Descent", "Look", "Pace", "first_rate", "look"]


@dataclass(frozen=True)
class Pace:
    """How far and how often to step.

    Attributes:
        rate: of the first step, in the method's own units; `auto`: see `first_rate`.
        steps: planned.
        most: steps at most; each time the planned number has passed in vain, the rate doubles.
        margin: stop when every target's logit is so far above the others; None never stops early.
        backtrack: take a step back that made the loss larger, and halve the rate.
    """

    rate: float | Literal["auto"]
    steps: int
    most: int
    margin: float | None
    backtrack: bool


class Look(NamedTuple):
    """One pass over the targets, forward and back.

    Attributes:
        loss: mean of -log p over the target tokens, in nats.
        judgement: of the target tokens, [N].
        gradients: of the loss, by block, float32 [O, I].
        keys: what enters the blocks' matrices where the tokens are predicted, by block, float32 [N, I].
    """

    loss: float
    judgement: Judgement
    gradients: Mapping[int, Tensor]
    keys: Mapping[int, Tensor]


@dataclass
class Course:
    """What is fixed for one group of failures.

    Attributes:
        work: the model under repair.
        rows: batches of the texts.
        doors: what enters the lowest block that changes, for each batch.
        layers: blocks that change.
        token: targets [N].
        start: how they stood.
        masks: which neurons change, by block, bool [I]; a block that isn't there changes whole.
        neurons: the same as a list.
        contradicts: see `Outcome`; None before the first step.
    """

    work: Workspace
    rows: Sequence[TargetRows]
    doors: Sequence[Entering]
    layers: list[int]
    token: Tensor
    start: Judgement
    masks: Mapping[int, Tensor] = field(default_factory=dict)
    neurons: list[Neuron] | None = None
    contradicts: Mapping[int, int] | None = None


def look(work: Workspace, rows: Sequence[TargetRows], doors: Sequence[Entering], layers: Sequence[int]) -> Look:
    """Run the model with its masters on, batch by batch, and add up the gradients."""
    count = sum(len(batch.token) for batch in rows)
    modules = {str(layer): work.place(layer).module for layer in layers}
    loss, margins, others = 0.0, [], []
    keys: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    with work.trained(layers) as parameters, torch.enable_grad():
        for batch, door in zip(rows, doors, strict=True):
            with captured(modules, "input") as seen, resumed(work.model, door):
                states = hidden_states(work.model, batch.rows)[batch.row, batch.column]
            logits = masked_logits(work.model, states, work.vocabulary)
            part = F.cross_entropy(logits, batch.token, reduction="sum") / count
            part.backward()
            loss += float(part.detach())
            judgement = judged(logits.detach(), batch.token)
            margins.append(judgement.margin)
            others.append(judgement.other)
            at = (batch.row, batch.column)
            for layer in layers:
                keys[layer].append(seen[str(layer)][at].detach().float())
    return Look(
        loss,
        Judgement(torch.cat(margins), torch.cat(others)),
        {layer: work.gradient(layer, parameter) for layer, parameter in parameters.items()},
        {layer: torch.cat(found) for layer, found in keys.items()},
    )


def first_rate(seen: Look, moves: Mapping[int, Tensor], steps: int) -> float:
    """Return the rate at which the planned steps would bring the loss to nothing, were it as steep all the way.

    A rate in the units of hidden states or of weights would be too small for one model and too large for the next.
    """
    drop = -sum(float((seen.gradients[layer] * move).sum()) for layer, move in moves.items())
    return seen.loss / (steps * drop) if drop > 0 else 0.0


class Descent(Repair):
    """Steps until the targets come out.

    Args:
        mode: see `Repair`.
        layers: blocks whose feed-forward output matrix changes; see `chosen_layers`.
        pace: how far and how often to step.
        sweeps: see `Repair`.
        undo: see `Repair`.
        guard: see `Repair`.
        fold_gain: see `Repair`.
    """

    def __init__(
        self,
        mode: Mode,
        layers: LayerChoice,
        pace: Pace,
        sweeps: int = 3,
        undo: bool = True,
        guard: float | None = None,
        fold_gain: bool = True,
    ) -> None:
        super().__init__(mode, sweeps, undo, guard, fold_gain)
        self.layers = layers
        self.pace = pace

    @abstractmethod
    def directions(self, course: Course, seen: Look) -> Mapping[int, Tensor]:
        """Return what is added at a rate of 1, by block: [O, I]."""

    def prepare(self, course: Course) -> None:
        """Fix what the method fixes for a group of failures; nothing, here."""

    def repair(
        self, work: Workspace, requests: Sequence[EncodedRequest], rows: Sequence[TargetRows], start: Judgement
    ) -> Outcome:
        """Step, and stop when all targets come out with the margin, or when the steps are used up."""
        token = torch.cat([batch.token for batch in rows])
        with work.worn():
            layers = self._layers(work, requests, rows, start)
            doors = [entering(work.model, batch.rows, layers[0]) for batch in rows]
        course = Course(work, rows, doors, layers, token, start)
        self.prepare(course)
        steps = self._walk(course)
        return Outcome(steps, course.layers, course.neurons, course.contradicts or {})

    def _layers(
        self, work: Workspace, requests: Sequence[EncodedRequest], rows: Sequence[TargetRows], start: Judgement
    ) -> list[int]:
        """The blocks that the first failing request needs most."""
        row, offset = [], 0
        for batch in rows:
            row.append(batch.row + offset)
            offset += len(batch.last)
        first = int(torch.cat(row)[start.margin <= 0][0])
        return chosen_layers(work.model, work.batches([requests[first]])[0], self.layers)

    def _walk(self, course: Course) -> int:
        work, pace = course.work, self.pace
        seen = look(work, course.rows, course.doors, course.layers)
        rate = None
        for step in range(pace.most):
            if self._enough(seen):
                return step
            kept, moves = work.weights, self.directions(course, seen)
            if rate is None:
                rate = pace.rate if pace.rate != "auto" else first_rate(seen, moves, pace.steps)
            elif step % pace.steps == 0:
                rate *= 2
            work.weights = work.moved({layer: rate * move for layer, move in moves.items()})
            new = look(work, course.rows, course.doors, course.layers)
            if pace.backtrack and not new.loss <= seen.loss:
                work.weights, rate = kept, rate / 2
            else:
                seen = new
        return pace.most

    def _enough(self, seen: Look) -> bool:
        return self.pace.margin is not None and bool((seen.judgement.margin >= self.pace.margin).all())

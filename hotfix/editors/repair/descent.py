"""Steps down the loss of failing tokens, over chosen matrices: what STAR and SGD share."""

from __future__ import annotations

import math
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
from hotfix.editors.repair.workspace import Workspace
from hotfix.editors.rows import TargetRows
from hotfix.models.resume import Entering, entering_each, resumed
from hotfix.models.states import hidden_states
from hotfix.models.trace import captured

__all__ = ["Course", "Descent", "Look", "Pace", "adapted", "look", "slope"]

_REGROWTH = 1.25  # of the largest rate, with each step behind one that was taken back
_BEYOND = 16.0  # a promise so many times what is wanted was not kept because the step is too long


@dataclass(frozen=True)
class Pace:
    """How far and how often to step.

    Attributes:
        rate: of the first step, in the method's own units; `auto`: such that the planned steps would bring the loss to
            nothing, were it as steep all the way; a rate in units of hidden states or weights would be too small for
            one model and too large for the next.
        steps: planned.
        most: steps at most.
        margin: stop when every target's logit is so far above the others; None never stops early.
        adapt: change the rate by what the steps do; see `adapted`.
    """

    rate: float | Literal["auto"]
    steps: int
    most: int
    margin: float | None
    adapt: bool


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


def slope(seen: Look, moves: Mapping[int, Tensor]) -> float:
    """Return how fast the loss falls along a move, to first order."""
    return -sum(float((seen.gradients[layer] * move).sum()) for layer, move in moves.items())


def adapted(drop: float, wanted: float, promised: float) -> float:
    """Return what the rate is multiplied by behind a step; 0: the step is to be taken back, and the rate halved.

    Small rises of the loss are rounding, mostly; so is much of what a gradient promises in half precision, and a step
    that keeps none of its promise may be too short as well as too long.

    Args:
        drop: of the loss.
        wanted: drop.
        promised: drop, to first order.

    >>> adapted(drop=0.1, wanted=0.1, promised=0.1), adapted(drop=0.0, wanted=0.1, promised=0.1)
    (1.0, 2.0)
    >>> adapted(drop=-0.2, wanted=0.1, promised=0.1), adapted(drop=0.0, wanted=0.1, promised=5.0)
    (0.0, 0.5)
    """
    if not drop >= -wanted:
        return 0.0
    if drop >= wanted / 2:
        return 1.0
    return 2.0 if promised < _BEYOND * wanted else 0.5


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
            doors = entering_each(work.model, [batch.rows for batch in rows], layers[0])
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

    def lacking(self, course: Course, now: Judgement) -> Tensor:
        """Which targets don't come out yet: failures short of the margin, and what was right and is wrong: bool [N]."""
        least = torch.where(course.start.margin <= 0, self.pace.margin or 0.0, 0.0)
        return (now.margin <= 0) | (now.margin < least)

    def _walk(self, course: Course) -> int:
        work, pace = course.work, self.pace
        seen, rate = look(work, course.rows, course.doors, course.layers), 0.0
        planned, ceiling = seen.loss / pace.steps, math.inf
        for step in range(pace.most):
            if pace.margin is not None and not self.lacking(course, seen.judgement).any():
                return step
            kept, moves = work.weights, self.directions(course, seen)
            steep = slope(seen, moves)
            if step == 0:
                rate = pace.rate if pace.rate != "auto" else planned / steep if steep > 0 else 0.0
            work.weights = work.moved({layer: rate * move for layer, move in moves.items()})
            new = look(work, course.rows, course.doors, course.layers)
            factor = adapted(seen.loss - new.loss, min(planned, seen.loss / 2), rate * steep) if pace.adapt else 1.0
            if factor == 0:
                # What was too long is not tried again at once: the loss would go up and down between two rates.
                work.weights, rate, ceiling = kept, rate / 2, rate / 2
            else:
                seen, ceiling = new, ceiling * _REGROWTH
                rate = min(rate * factor, ceiling)
        return pace.most

"""MINT: a failing token, a handful of neurons, a step of each towards the token.

Gu et al., "Neuron Patching" (https://arxiv.org/abs/2312.05356). Per failure, the ten neurons of the upper blocks that
have most to do with the target are tried one by one, the one whose patch helps most is patched, and so on until the
target comes out, at most ten times; otherwise all of it is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hotfix.data.edits import EncodedRequest
from hotfix.editors.repair.attribution import Attribution, Neuron, Score, attributions, best_neurons
from hotfix.editors.repair.base import Repair
from hotfix.editors.repair.failures import Judgement, judged, masked_logits
from hotfix.editors.repair.layers import LayerChoice, chosen_layers
from hotfix.editors.repair.report import Outcome
from hotfix.editors.repair.workspace import Workspace
from hotfix.editors.rows import TargetRows
from hotfix.models.resume import Entering, entering, resumed
from hotfix.models.rows import TokenRows
from hotfix.models.states import hidden_states

__all__ = ["MINT", "drawn", "traction"]

_PAPER_FACTOR = 0.01


def traction(steer: Tensor) -> Tensor:
    """Divide a steer by its range: [D] -> [D].

    >>> traction(torch.tensor([-1.0, 0.0, 3.0]))
    tensor([-0.2500,  0.0000,  0.7500])
    """
    return steer / (steer.max() - steer.min())


def drawn(column: Tensor, towards: Tensor, factor: float) -> Tensor:
    """Draw a column towards something: (w + f t) / (1 + f).

    >>> drawn(torch.tensor([1.0]), torch.tensor([3.0]), 1.0)
    tensor([2.])
    """
    return (column + factor * towards) / (1 + factor)


class MINT(Repair):
    """Patches neurons one by one.

    Args:
        protocol: `paper`: attribution of the target's probability, every neuron drawn along the steer, the gap between
            two probabilities, a factor of 0.01, no margin, the raw head. `sound`: attribution of its logarithm, a
            neuron whose activation is negative is drawn the other way, the gap between logits, and what the other
            arguments say; `factor`, `growth` and `margin` are read only then.
        layers: blocks whose neurons are candidates.
        candidates: neurons tried.
        patches: at most, for one failure.
        factor: how far a column is drawn, at first.
        growth: what the factor is multiplied by after each patch that didn't do.
        most_factor: where it stops growing.
        margin: the target's logit has to be so far above the others.
        guard: largest share of the background's likeliest tokens that may flip; null doesn't look.
    """

    def __init__(
        self,
        protocol: Literal["sound", "paper"] = "sound",
        layers: LayerChoice = "upper_half",
        candidates: int = 10,
        patches: int = 10,
        factor: float = 0.1,
        growth: float = 2.0,
        most_factor: float = 4.0,
        margin: float = 0.5,
        guard: float | None = None,
    ) -> None:
        paper = protocol == "paper"
        super().__init__("iterative", sweeps=1 if paper else 3, guard=guard, fold_gain=not paper)
        self.protocol = protocol
        self.layers = layers
        self.candidates = candidates
        self.patches = patches
        self.factor = _PAPER_FACTOR if paper else factor
        self.growth = 1.0 if paper else growth
        self.most_factor = most_factor
        self.margin = 0.0 if paper else margin

    def repair(
        self, work: Workspace, requests: Sequence[EncodedRequest], rows: Sequence[TargetRows], start: Judgement
    ) -> Outcome:
        """Patch until the target comes out."""
        (batch,) = rows
        with work.worn():
            layers = chosen_layers(work.model, batch, self.layers)
            found = self._attributed(work, batch, layers)
            # Blocks below aren't changed, so what enters the lowest stays the same for all patches.
            door = entering(work.model, batch.rows, layers[0])
        candidates = best_neurons(found.scores, self.candidates)
        steer = work.semantics.steers(work.semantics.contrasts(batch.token, start.other))[0].float()
        towards = {neuron: traction(steer) * self._sign(found, neuron) for neuron in candidates}
        used: list[Neuron] = []
        factor, now = self.factor, start
        while candidates and len(used) < self.patches:
            new = {n: drawn(work.matrix(n.layer)[:, n.column], towards[n], factor) for n in candidates}
            gaps = self._gaps(work, batch, door, new, int(now.other[0]))
            best = candidates[int(gaps.argmin())]
            work.weights = _patched(work, best, new[best])
            used.append(best)
            now = work.judge(rows)
            if float(now.margin[0]) > 0 and float(now.margin[0]) >= self.margin:
                break
            factor = max(factor, min(factor * self.growth, self.most_factor))
        return Outcome(len(used), layers, sorted(set(used)))

    def _attributed(self, work: Workspace, batch: TargetRows, layers: Sequence[int]) -> Attribution:
        """Scores of the target; of its logarithm where the probability has no gradient left."""
        of: Score = "probability" if self.protocol == "paper" else "log_probability"
        found = attributions(work.model, batch, layers, work.vocabulary, of)
        if best_neurons(found.scores, 1):
            return found
        return attributions(work.model, batch, layers, work.vocabulary, "log_probability")

    def _sign(self, found: Attribution, neuron: Neuron) -> float:
        """A column is written times its neuron's activation, so where that is negative the column has to go back."""
        if self.protocol == "paper":
            return 1.0
        return 1.0 if found.keys[neuron.layer][0, neuron.column] >= 0 else -1.0

    @torch.no_grad()
    def _gaps(
        self, work: Workspace, batch: TargetRows, door: Entering, new: dict[Neuron, Tensor], other: int
    ) -> Tensor:
        """How far each candidate's patch would leave the target behind: [K]."""
        moves = {neuron: column - work.matrix(neuron.layer)[:, neuron.column] for neuron, column in new.items()}
        count = len(moves)
        copies = TokenRows(
            *(t.expand(count, -1) for t in (batch.rows.input_ids, batch.rows.position_ids, batch.rows.branch))
        )
        with work.worn(), resumed(work.model, door.repeated(count)), _tried(work, moves):
            states = hidden_states(work.model, copies)[:, int(batch.column[0])]
        logits = masked_logits(work.model, states, work.vocabulary)
        token = batch.token.expand(count)
        if self.protocol == "sound":
            return -judged(logits, token).margin
        chances = logits.softmax(dim=1)
        return chances[:, other] - chances[:, int(batch.token[0])]


def _patched(work: Workspace, neuron: Neuron, column: Tensor) -> dict[str, Tensor]:
    matrix = work.matrix(neuron.layer).clone()
    matrix[:, neuron.column] = column
    return work.replaced({neuron.layer: matrix})


@contextmanager
def _tried(work: Workspace, moves: dict[Neuron, Tensor]) -> Iterator[None]:
    """Row k of the batch runs with the k-th neuron's column moved; no weight is written."""

    def hook(rows: list[int], neurons: list[int], columns: Tensor) -> Callable[..., Tensor]:
        def put(module: nn.Module, args: tuple[Any, ...], result: Tensor) -> Tensor:
            activation = args[0][rows, :, neurons]  # [k, T]
            added = activation[:, :, None].float() * columns[:, None]
            changed = result.clone()
            changed[rows] += added.to(result.dtype)
            return changed

        return put

    handles = []
    for layer in {neuron.layer for neuron in moves}:
        own = [(row, neuron) for row, neuron in enumerate(moves) if neuron.layer == layer]
        columns = torch.stack([moves[neuron] for _, neuron in own])
        put = hook([row for row, _ in own], [neuron.column for _, neuron in own], columns)
        handles.append(work.place(layer).module.register_forward_hook(put))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

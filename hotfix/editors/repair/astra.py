"""ASTRA: the change that closes all gaps at once, solved for, a few times over.

The successor of STAR by its authors, known from their public code. How much a change of the matrices moves the contrast
between the target and what is written instead is, but for what later blocks make of it, linear: one small system says
how far each failing token's own direction has to be added at its own key. It is set up anew a few times, because later
blocks do make something of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor

from hotfix.data.edits import EncodedRequest
from hotfix.data.packing import pack_texts
from hotfix.editors.repair.attribution import Neuron, best_neurons, neuron_masks
from hotfix.editors.repair.base import Repair
from hotfix.editors.repair.failures import Judgement, judged, masked_logits
from hotfix.editors.repair.groups import Mode
from hotfix.editors.repair.layers import LayerChoice, chosen_layers
from hotfix.editors.repair.report import Outcome
from hotfix.editors.repair.semantics import final_norm
from hotfix.editors.repair.workspace import Workspace
from hotfix.editors.rows import TargetRows
from hotfix.models.resume import Entering, entering_each, resumed
from hotfix.models.states import hidden_states
from hotfix.models.trace import captured

__all__ = ["ASTRA", "closing"]

_TEXTS = 16
_NORM = "norm"


class _Stand(NamedTuple):
    """How the target tokens stand, [N], and what enters the matrices where they are predicted, [N, I] by block."""

    judgement: Judgement
    keys: Mapping[int, Tensor]
    residual: Tensor


def closing(
    contrasts: Tensor, directions: Tensor, keys: Sequence[Tensor], residual: Tensor, gaps: Tensor, ridge: float
) -> Tensor:
    """Solve for how far each token's direction is added at its key so that all gaps close, to first order.

    Args:
        contrasts: how the final state's parts count for each token, [N, D].
        directions: the move of each token, [N, D].
        keys: by block, [N, I], weighed: the products of two tokens' keys say how far one's change moves the other.
        residual: root mean square of what the final norm divides by, [N].
        gaps: wanted changes of the contrasts, [N].
        ridge: share of the mean diagonal.

    Returns:
        [N], float64.
    """
    shared = sum(key.double() @ key.double().T for key in keys)
    system = (contrasts.double() @ directions.double().T) * shared / residual.double()[:, None]
    size = ridge * system.diagonal().mean()
    system = system + size * torch.eye(len(system), dtype=system.dtype, device=system.device)
    solved: Tensor = torch.linalg.solve(system, gaps.double())
    return solved


class ASTRA(Repair):
    """Closed form, re-linearised.

    Args:
        mode: which failures are repaired together; see `Repair`.
        layers: blocks that change; see `chosen_layers`.
        margin: how far above the others a target's logit is brought; the authors' 5 move more beside it.
        enough: how far is enough to stop; less than `margin`, because what is solved for isn't quite what comes out.
        rounds: at most.
        neurons: change the so many neurons that count most for each failing token; null changes all.
        preserve: spare neurons that ordinary code uses, by their mean square over the background's texts.
        ridge: share of the system's mean diagonal.
        guard: largest share of the background's likeliest tokens that may flip; null doesn't look.
    """

    def __init__(
        self,
        mode: Mode = "answer",
        layers: LayerChoice = "quarter",
        margin: float = 1.0,
        enough: float = 0.5,
        rounds: int = 10,
        neurons: int | None = 16,
        preserve: bool = True,
        ridge: float = 1e-2,
        guard: float | None = None,
    ) -> None:
        super().__init__(mode, guard=guard)
        self.layers = layers
        self.margin = margin
        self.enough = enough
        self.rounds = rounds
        self.neurons = neurons
        self.preserve = preserve
        self.ridge = ridge

    def repair(
        self, work: Workspace, requests: Sequence[EncodedRequest], rows: Sequence[TargetRows], start: Judgement
    ) -> Outcome:
        """Solve, look, and solve again."""
        with work.worn():
            layers = chosen_layers(work.model, work.batches(requests[:1])[0], self.layers)
            doors = entering_each(work.model, [batch.rows for batch in rows], layers[0])
            spared = _spared(work, layers) if self.preserve and work.texts else {}
        token = torch.cat([batch.token for batch in rows])
        stand = _stand(work, rows, doors, layers)
        masks, neurons = self._chosen(work, token, stand)
        weigh = {layer: masks[layer].float() * spared.get(layer, 1.0) for layer in layers}
        scale = 1.0
        for step in range(self.rounds):
            if (stand.judgement.margin >= self.enough).all():
                return Outcome(step, layers, neurons)
            kept = work.weights
            work.weights = work.moved(self._moves(work, token, stand, weigh, scale))
            new = _stand(work, rows, doors, layers)
            if float(new.judgement.margin.min()) < float(stand.judgement.margin.min()):
                work.weights, scale = kept, scale / 2
            else:
                stand = new
        return Outcome(self.rounds, layers, neurons)

    def _chosen(self, work: Workspace, token: Tensor, stand: _Stand) -> tuple[dict[int, Tensor], list[Neuron] | None]:
        """The neurons whose own contribution to the contrasts of the failing tokens is largest, either way."""
        if self.neurons is None:
            return {layer: torch.ones_like(key[0], dtype=torch.bool) for layer, key in stand.keys.items()}, None
        wrong = stand.judgement.margin <= 0
        contrasts = work.semantics.contrasts(token[wrong], stand.judgement.other[wrong]).float()
        share = contrasts / stand.residual[wrong][:, None]
        scores = {
            layer: (key[wrong] * (share @ work.matrix(layer))).abs().amax(dim=0) for layer, key in stand.keys.items()
        }
        count = self.neurons * int(wrong.sum())
        return neuron_masks(scores, count), best_neurons(scores, count)

    def _moves(
        self, work: Workspace, token: Tensor, stand: _Stand, weigh: Mapping[int, Tensor], scale: float
    ) -> dict[int, Tensor]:
        active = stand.judgement.margin < self.enough
        contrasts = work.semantics.contrasts(token[active], stand.judgement.other[active])
        # Tokens that the head can't tell apart have no direction.
        active = active.clone()
        active[active.nonzero()[:, 0]] = contrasts.norm(dim=1) > 0
        contrasts = contrasts[contrasts.norm(dim=1) > 0]
        steers = work.semantics.steers(contrasts)
        directions = steers / (steers * contrasts).sum(dim=1, keepdim=True)
        gaps = scale * (self.margin - stand.judgement.margin[active])
        keys = {layer: key[active] for layer, key in stand.keys.items()}
        # D shared by both factors: its root in each gives k^T D k.
        rooted = [key * weigh[layer].sqrt() for layer, key in keys.items()]
        share = closing(contrasts, directions, rooted, stand.residual[active], gaps, self.ridge)
        write = (share[:, None] * directions).float()
        return {layer: write.T @ (key * weigh[layer]) for layer, key in keys.items()}


@torch.no_grad()
def _stand(work: Workspace, rows: Sequence[TargetRows], doors: Sequence[Entering], layers: Sequence[int]) -> _Stand:
    modules = {str(layer): work.place(layer).module for layer in layers}
    norm = final_norm(work.model)
    margins, others, residual = [], [], []
    keys: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    with work.worn():
        for batch, door in zip(rows, doors, strict=True):
            with ExitStack() as stack:
                seen = stack.enter_context(captured(modules | ({} if norm is None else {_NORM: norm}), "input"))
                stack.enter_context(resumed(work.model, door))
                states = hidden_states(work.model, batch.rows)[batch.row, batch.column]
            found = judged(masked_logits(work.model, states, work.vocabulary), batch.token)
            at = (batch.row, batch.column)
            margins.append(found.margin)
            others.append(found.other)
            stream = seen[_NORM][at].float() if norm is not None else torch.ones_like(states)
            residual.append(stream.square().mean(dim=1).sqrt())
            for layer in layers:
                keys[layer].append(seen[str(layer)][at].float())
    gathered = {layer: torch.cat(found) for layer, found in keys.items()}
    return _Stand(Judgement(torch.cat(margins), torch.cat(others)), gathered, torch.cat(residual))


@torch.no_grad()
def _spared(work: Workspace, layers: Sequence[int]) -> dict[int, Tensor]:
    """One over each neuron's mean square in ordinary code, by block; neurons that it never uses count a thousandth."""
    rows, targets = pack_texts([text for text in work.texts if len(text) > 1][:_TEXTS], pad_id=0)
    if rows is None:
        return {}
    with captured({str(layer): work.place(layer).module for layer in layers}, "input") as seen:
        hidden_states(work.model, rows.to(work.model.device))
    found = {}
    for layer in layers:
        busy = seen[str(layer)][targets.row, targets.column].float().square().mean(dim=0)
        found[layer] = 1 / (busy + 1e-3 * busy.mean())
    return found

"""STAR: descent whose steps are as large as the head's geometry says and go where the gradient says.

Gu et al., STAR (https://arxiv.org/abs/2503.12899). The head's pseudo-inverse turns "this token instead of that one"
into a move of the hidden state, the least-squares solution of smallest norm turns the move into a change of each
feed-forward output matrix, and that prior's sizes are used with the signs of the gradient.

Against the published code: keys are read where the token is predicted, not one position later, and at the matrix's own
input, not behind the activation function of a gated layer; a layer's prior goes to that layer; weights without a
gradient don't move; the model stays in evaluation mode; steps are scaled to the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from hotfix.editors.repair.attribution import attributions, best_neurons, neuron_masks
from hotfix.editors.repair.descent import Course, Descent, Look, Pace
from hotfix.editors.repair.groups import Mode
from hotfix.editors.repair.layers import LayerChoice, bypass_losses
from hotfix.editors.repair.prior import Prior, contradictions, minimum_norm, signed_step
from hotfix.editors.repair.semantics import robustly_scaled

__all__ = ["STAR"]

_PAPER_RATE = 1e-2


class STAR(Descent):
    """Semantic prior, gradient's sign.

    Args:
        protocol: `paper`: the published constants and nothing else: 10 steps of 0.01 in units of the steer, all blocks,
            failures one by one, the raw head, no early stop, nothing undone or tried again. `sound`: what the other
            arguments say, the head seen through the final norm, a rate that adapts, failures undone that were not
            solved. The arguments below are read only then.
        mode: which failures are repaired together; see `Repair`.
        layers: blocks that change; see `chosen_layers`.
        learning_rate: of the first step, in units of the steer, whose size knows nothing of the model's; `auto` takes
            as many steps as planned, to first order.
        steps: planned; more of them are smaller, take longer, and move less that has nothing to do with the target.
        most_steps: at most.
        margin: a target's logit has to be so far above the others.
        sparsity: which neurons change: `none`: all; `autoly`: the best of all chosen blocks; `layerly`: the best of the
            one block whose bypass hurts most.
        ratio: share of one block's neurons that is chosen in all.
        guard: largest share of the background's likeliest tokens that may flip; null doesn't look.
    """

    def __init__(
        self,
        protocol: Literal["sound", "paper"] = "sound",
        mode: Mode = "answer",
        layers: LayerChoice = "all",
        learning_rate: float | Literal["auto"] = "auto",
        steps: int = 20,
        most_steps: int = 60,
        margin: float = 0.5,
        sparsity: Literal["none", "autoly", "layerly"] = "none",
        ratio: float = 0.25,
        guard: float | None = None,
    ) -> None:
        if protocol == "paper":
            pace = Pace(_PAPER_RATE, steps=10, most=10, margin=None, adapt=False)
            super().__init__("iterative", "all", pace, sweeps=1, undo=False, guard=guard, fold_gain=False)
        else:
            pace = Pace(learning_rate, steps, most_steps, margin, adapt=True)
            super().__init__(mode, layers, pace, guard=guard)
        self.protocol = protocol
        self.sparsity: Literal["none", "autoly", "layerly"] = "none" if protocol == "paper" else sparsity
        self.ratio = ratio

    def prepare(self, course: Course) -> None:
        """Choose the neurons, on the first batch of texts."""
        if self.sparsity == "none":
            return
        work, rows = course.work, course.rows[0]
        width = work.matrix(course.layers[0]).shape[1]
        count = max(1, int(self.ratio * width))
        with work.worn():
            if self.sparsity == "layerly":
                losses = bypass_losses(work.model, rows)
                course.layers = [max(course.layers, key=lambda layer: float(losses[layer]))]
            scores = attributions(work.model, rows, course.layers, work.vocabulary, "log_probability").scores
        course.masks, course.neurons = neuron_masks(scores, count), best_neurons(scores, count)

    def directions(self, course: Course, seen: Look) -> Mapping[int, Tensor]:
        """Return |prior| with the signs of the way down, by block."""
        steers = self._steers(course, seen)
        priors = {}
        for layer, keys in seen.keys.items():
            mask = course.masks.get(layer)
            priors[layer] = minimum_norm(keys if mask is None else keys * mask, steers)
        if course.contradicts is None:
            course.contradicts = _common(priors, seen.keys, steers)
        return {layer: signed_step(prior.dense(), seen.gradients[layer]) for layer, prior in priors.items()}

    def _steers(self, course: Course, seen: Look) -> Tensor:
        """The wanted moves of the hidden states, zero where a token is right already: float32 [N, D]."""
        at_first = self.protocol == "paper"
        now = course.start if at_first else seen.judgement
        wanted = self.lacking(course, now)
        semantics = course.work.semantics
        contrasts = semantics.contrasts(course.token, now.other) * wanted[:, None]
        steers = semantics.steers(contrasts)
        return torch.where(wanted[:, None], robustly_scaled(steers), 0.0).float()


def _common(priors: Mapping[int, Prior], keys: Mapping[int, Tensor], steers: Tensor) -> dict[int, int]:
    """Contradictions that no block can tell apart."""
    found = [contradictions(prior, keys[layer], steers) for layer, prior in priors.items()]
    return {point: other for point, other in found[0].items() if all(point in each for each in found)}

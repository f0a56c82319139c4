"""SGD: plain gradient descent on the loss of failing tokens, the baseline of LM repair.

The baseline of STAR (https://arxiv.org/abs/2503.12899): no momentum, no decay, a rate of 0.01, 10 steps, all
feed-forward output matrices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from hotfix.editors.repair.descent import Course, Descent, Look, Pace
from hotfix.editors.repair.groups import Mode
from hotfix.editors.repair.layers import LayerChoice

__all__ = ["SGD"]

_PAPER_RATE = 1e-2


class SGD(Descent):
    """Gradient descent on feed-forward output matrices.

    Args:
        protocol: `paper`: 10 steps of 0.01 over all blocks, failures one by one, nothing undone or tried again;
            `sound`: what the other arguments say, a rate that adapts, failures undone that were not solved. The
            arguments below are read only then.
        mode: which failures are repaired together; see `Repair`.
        layers: blocks that change; see `chosen_layers`.
        learning_rate: of the first step; `auto` takes as many steps as planned, to first order.
        steps: planned.
        most_steps: at most.
        margin: the target's logit has to be so far above the others.
        guard: largest share of the background's likeliest tokens that may flip; null doesn't look.
    """

    def __init__(
        self,
        protocol: Literal["sound", "paper"] = "sound",
        mode: Mode = "answer",
        layers: LayerChoice = "all",
        learning_rate: float | Literal["auto"] = 1e-2,
        steps: int = 20,
        most_steps: int = 60,
        margin: float = 0.5,
        guard: float | None = None,
    ) -> None:
        if protocol == "paper":
            pace = Pace(_PAPER_RATE, steps=10, most=10, margin=None, adapt=False)
            super().__init__("iterative", "all", pace, sweeps=1, undo=False, guard=guard)
        else:
            super().__init__(mode, layers, Pace(learning_rate, steps, most_steps, margin, adapt=True), guard=guard)

    def directions(self, course: Course, seen: Look) -> Mapping[int, Tensor]:
        """Return the gradients, downward."""
        return {layer: -gradient for layer, gradient in seen.gradients.items()}

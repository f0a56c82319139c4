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


class SGD(Descent):
    """Gradient descent on feed-forward output matrices.

    Args:
        protocol: `paper`: exactly `steps` steps, failures one by one, nothing undone and nothing tried again; `sound`:
            stop at the margin, step back where the loss rose, go on to `most_steps` at a doubled rate, undo what
            solved nothing.
        mode: which failures are repaired together; see `Repair`. The paper's protocol has its own.
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
        steps: int = 10,
        most_steps: int = 40,
        margin: float = 0.5,
        guard: float | None = None,
    ) -> None:
        sound = protocol == "sound"
        pace = Pace(learning_rate, steps, most_steps if sound else steps, margin if sound else None, backtrack=sound)
        super().__init__(mode if sound else "iterative", layers, pace, 3 if sound else 1, undo=sound, guard=guard)

    def directions(self, course: Course, seen: Look) -> Mapping[int, Tensor]:
        """Return the gradients, downward."""
        return {layer: -gradient for layer, gradient in seen.gradients.items()}

"""FT-L and FT-M: some steps of gradient descent on one matrix, held within a small box.

Zhu et al. 2020 (https://arxiv.org/abs/2012.00363) bound the change of every weight; ROME's authors named it FT-L
(https://arxiv.org/abs/2202.05262, appendix) and took the loss of all target tokens at the prompt's last position. FT-M
takes each token's loss at the position that predicts it, as does what CLMEEval (https://arxiv.org/abs/2411.06638) calls
FT-L.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hotfix.data.edits import EncodedRequest
from hotfix.editors.base import Background, WeightEditor
from hotfix.editors.rows import TargetRows, target_rows
from hotfix.errors import ConfigError
from hotfix.models.layout import feed_forward_output
from hotfix.models.states import head_logits, hidden_states
from hotfix.models.weights import swapped_weights
from hotfix.patches import WeightDelta
from hotfix.patches.weight_delta import Change

__all__ = ["FT"]


class FT(WeightEditor):
    """Adam on feed-forward output matrices, each weight within `radius` of where it was.

    The weights that are trained are float32 whatever the model's precision, so no step is lost to rounding; what the
    model computes with is rounded once.

    Args:
        layers: indices of the blocks whose feed-forward output matrix is trained.
        steps: at most so many.
        learning_rate: of Adam. Where it is above the radius, one step puts every weight on the box's surface.
        radius: largest change of a weight, an absolute number; null for no bound.
        loss_at: `target` (FT-M): each target token where it is predicted; `prompt` (FT-L): all of them at the prompt's
            last position, which says only what comes first.
        enough: stop when the mean loss is below this, in nats a token.
    """

    def __init__(
        self,
        layers: list[int],
        steps: int = 25,
        learning_rate: float = 5e-4,
        radius: float | None = 1e-3,
        loss_at: Literal["target", "prompt"] = "target",
        enough: float = 1e-2,
    ) -> None:
        if not layers:
            raise ConfigError("editor.init_args.layers is empty, expected indices of blocks")
        if radius is not None and radius <= 0:
            raise ConfigError(f"editor.init_args.radius is {radius}, expected more than 0, or null for no bound")
        self.layers = layers
        self.steps = steps
        self.learning_rate = learning_rate
        self.radius = radius
        self.loss_at = loss_at
        self.enough = enough

    def changes(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EncodedRequest],
        background: Background,
        previous: WeightDelta | None,
    ) -> Mapping[str, Change]:
        """Train, and return the new matrices."""
        rows = target_rows(requests, model.device)
        if self.loss_at == "prompt":
            rows = rows.at_prompt_end()
        names = [feed_forward_output(model, layer).name for layer in self.layers]
        start = {name: p.detach().float() for name, p in model.named_parameters() if name in names}
        trained = {name: nn.Parameter(weight.clone()) for name, weight in start.items()}
        optimizer = torch.optim.Adam(trained.values(), lr=self.learning_rate)
        for _ in range(self.steps):
            loss = self._loss(model, rows, trained)
            if loss.item() < self.enough:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if self.radius is not None:
                _clamp(trained, start, self.radius)
        return {name: weight.detach() for name, weight in trained.items()}

    def _loss(self, model: PreTrainedModel, rows: TargetRows, trained: Mapping[str, nn.Parameter]) -> Tensor:
        """Mean over the requests' target tokens of -log p, in nats."""
        with swapped_weights(model, trained):
            logits = head_logits(model, hidden_states(model, rows.rows)[rows.row, rows.column])
        return torch.nn.functional.cross_entropy(logits, rows.token)


@torch.no_grad()
def _clamp(trained: Mapping[str, Tensor], start: Mapping[str, Tensor], radius: float) -> None:
    for name, weight in trained.items():
        weight.copy_(weight.clamp(start[name] - radius, start[name] + radius))

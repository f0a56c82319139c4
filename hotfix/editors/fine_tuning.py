"""FT-L and FT-M: some steps of gradient descent on one matrix, held within a small box.

Zhu et al. 2020 (https://arxiv.org/abs/2012.00363) bound the change of every weight; ROME's authors named it FT-L
(https://arxiv.org/abs/2202.05262, appendix) and took the loss of all target tokens at the prompt's last position. FT-M
takes each token's loss at the position that predicts it, as does what CLMEEval (https://arxiv.org/abs/2411.06638) calls
FT-L.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hotfix.data.edits import EncodedRequest
from hotfix.editors.base import Background, WeightEditor
from hotfix.editors.descent import descend
from hotfix.editors.rows import TargetRows, target_rows
from hotfix.errors import ConfigError
from hotfix.models.layout import feed_forward_output, find_blocks
from hotfix.models.resume import entering_each
from hotfix.patches import WeightDelta
from hotfix.patches.weight_delta import Change

__all__ = ["FT", "Box"]


class FT(WeightEditor):
    """Adam on feed-forward output matrices, each weight within `radius` of where it was.

    The weights that are trained are float32 whatever the model's precision, so no step is lost to rounding; what the
    model computes with is rounded once, and not out of the box. A weight whose neighbours in the model's precision are
    all outside the box can't change at all: in bfloat16 that is so from 0.016 on where the radius is 1e-4.

    Args:
        layers: indices of the blocks whose feed-forward output matrix is trained; None takes the one at 2/3 of the
            depth, as 21 of 32 in the published settings.
        steps: at most so many.
        learning_rate: of Adam. Where it is above the radius, one step puts every weight on the box's surface: what is
            left is the descent's sign.
        radius: largest change of a weight; null for no bound.
        radius_unit: `std` measures the radius in standard deviations of the matrix's weights, so it means the same in
            any model; `absolute` is the published way.
        around: middle of the box. `edited` is the model that the earlier edits left, so that each edit may go as far
            again; `base` bounds all edits together.
        loss_at: `target` (FT-M): each target token where it is predicted; `prompt` (FT-L): all of them at the prompt's
            last position, which says only what comes first.
        enough: stop when the mean loss is below this, in nats a token.
        batch_size: requests of one pass; the gradient is of all of them whatever it is.
    """

    def __init__(
        self,
        layers: list[int] | None = None,
        steps: int = 25,
        learning_rate: float = 5e-4,
        radius: float | None = 0.05,
        radius_unit: Literal["std", "absolute"] = "std",
        around: Literal["edited", "base"] = "edited",
        loss_at: Literal["target", "prompt"] = "target",
        enough: float = 1e-2,
        batch_size: int = 32,
    ) -> None:
        if layers is not None and not layers:
            raise ConfigError("editor.init_args.layers is empty, expected indices of blocks, or null")
        if radius is not None and radius <= 0:
            raise ConfigError(f"editor.init_args.radius is {radius}, expected more than 0, or null for no bound")
        if min(steps, batch_size) < 1 or learning_rate <= 0:
            raise ConfigError(
                f"editor.init_args: steps is {steps}, batch_size {batch_size} and learning_rate {learning_rate}, "
                "expected more than 0"
            )
        self.layers = layers
        self.steps = steps
        self.learning_rate = learning_rate
        self.radius = radius
        self.radius_unit = radius_unit
        self.around = around
        self.loss_at = loss_at
        self.enough = enough
        self.batch_size = batch_size

    def changes(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EncodedRequest],
        background: Background,
        previous: WeightDelta | None,
    ) -> Mapping[str, Change]:
        """Train, and return the new matrices."""
        layers = self._layers(model)
        names = [feed_forward_output(cast("nn.Module", model), layer).name for layer in layers]
        trained = {name: weight.clone().requires_grad_() for name, weight in _weights(model, names).items()}
        boxes = self._boxes(model, names, previous)
        optimizer = torch.optim.Adam(trained.values(), lr=self.learning_rate)
        rows = [self._rows(part, model.device) for part in _batches(requests, self.batch_size)]
        doors = entering_each(model, [batch.rows for batch in rows], min(layers))
        # One look more than steps would be for nothing: nothing is done with the last loss.
        for _ in range(self.steps):
            worn = {
                name: nn.Parameter(_rounded(w.detach(), boxes.get(name), model.dtype)) for name, w in trained.items()
            }
            if descend(model, worn, rows, doors) < self.enough:
                break
            for name, weight in trained.items():
                weight.grad = cast("Tensor", worn[name].grad).float()
            optimizer.step()
            with torch.no_grad():
                for name, box in boxes.items():
                    trained[name].clamp_(box.low, box.high)
        return {name: _held(weight.detach(), boxes.get(name), model.dtype) for name, weight in trained.items()}

    def _layers(self, model: PreTrainedModel) -> list[int]:
        blocks = len(find_blocks(cast("nn.Module", model)).blocks)
        return [blocks * 2 // 3] if self.layers is None else self.layers

    def _boxes(self, model: PreTrainedModel, names: Sequence[str], previous: WeightDelta | None) -> dict[str, Box]:
        if self.radius is None:
            return {}
        base = previous is not None and self.around == "base"
        with previous.reference(cast("nn.Module", model)) if previous is not None and base else nullcontext():
            middle = _weights(model, names)
        unit = {name: 1.0 if self.radius_unit == "absolute" else float(w.std()) for name, w in middle.items()}
        return {name: Box(w - self.radius * unit[name], w + self.radius * unit[name], w) for name, w in middle.items()}

    def _rows(self, requests: Sequence[EncodedRequest], device: torch.device) -> TargetRows:
        rows = target_rows(requests, device)
        return rows.at_prompt_end() if self.loss_at == "prompt" else rows


class Box(NamedTuple):
    """How far weights may go.

    Attributes:
        low: least values, float32.
        high: largest ones.
        middle: where they were.
    """

    low: Tensor
    high: Tensor
    middle: Tensor


def _weights(model: PreTrainedModel, names: Sequence[str]) -> dict[str, Tensor]:
    own = dict(model.named_parameters())
    return {name: own[name].detach().float() for name in names}


def _batches(requests: Sequence[EncodedRequest], size: int) -> list[Sequence[EncodedRequest]]:
    return [requests[start : start + size] for start in range(0, len(requests), size)]


def _rounded(weight: Tensor, box: Box | None, dtype: torch.dtype) -> Tensor:
    """Round to the model's precision, and where that leaves the box, one number back towards its middle.

    >>> _rounded(torch.tensor([0.0201]), Box(*torch.tensor([[0.0199], [0.0201], [0.02]])), torch.bfloat16)
    tensor([0.0200], dtype=torch.bfloat16)
    """
    found = weight.to(dtype)
    if box is None or dtype == torch.float32:
        return found
    outside = (found.float() < box.low) | (found.float() > box.high)
    return torch.where(outside, torch.nextafter(found, box.middle.to(dtype)), found)


def _held(weight: Tensor, box: Box | None, dtype: torch.dtype) -> Tensor:
    """The trained weight, but for what would be rounded out of the box."""
    found = _rounded(weight, box, dtype)
    return torch.where(weight.to(dtype) == found, weight, found.float())

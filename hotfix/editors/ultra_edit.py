"""UltraEdit: one regularised solve from the keys and gradients of the answers; no training, no subject, no corpus.

Gu et al. 2025 (https://arxiv.org/abs/2505.14679). Keys h and gradients g are z-normalised by running statistics of all
edits so far; a token's value is -eta |h'|^2 g', and the change of the matrix is the ridge solution that turns the keys
into the values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hotfix.data.edits import EncodedRequest
from hotfix.editors.answer_states import answer_states, projections_of, ridge_solution, stored
from hotfix.editors.base import Background, Remembered, WeightEditor
from hotfix.errors import ConfigError
from hotfix.patches import WeightDelta
from hotfix.patches.weight_delta import Change

__all__ = ["RunningMoments", "UltraEdit"]


@dataclass(frozen=True)
class RunningMoments:
    """Mean and spread of the rows seen so far.

    Attributes:
        count: of rows, [].
        mean: [D].
        squares: sum of squared distances from the mean, [D].
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def assumed(cls, rows: Tensor, count: float) -> Self:
        """Stand for `count` rows whose mean is 0 and whose features all spread as `rows` do, [N, D], on average.

        One row, or a few, say nothing of a feature's spread: the variance of one is 0 or not a number.
        """
        size = rows.square().mean().clamp(min=torch.finfo(rows.dtype).tiny)
        return cls(rows.new_tensor(count), torch.zeros_like(rows[0]), (count * size).expand(rows.shape[1]))

    def after(self, rows: Tensor) -> Self:
        """Return the moments with further rows, [N, D] (Chan et al. 1983).

        >>> rows = torch.tensor([[1.0], [2.0], [6.0]])
        >>> RunningMoments(torch.tensor(1.0), rows[0], torch.zeros(1)).after(rows[1:])
        RunningMoments(count=tensor(3.), mean=tensor([3.]), squares=tensor([14.]))
        """
        mean = rows.mean(0)
        count = self.count + len(rows)
        shift = mean - self.mean
        squares = self.squares + (rows - mean).square().sum(0) + shift.square() * (self.count * len(rows) / count)
        return type(self)(count, self.mean + shift * (len(rows) / count), squares)

    def normalised(self, rows: Tensor) -> Tensor:
        """Return rows less the mean, over the standard deviation: [N, D]."""
        spread = (self.squares / self.count).sqrt()
        # A feature that never moved (a dead neuron) has no spread; it says nothing, so it is left at 0.
        return torch.where(spread > 0, (rows - self.mean) / spread.clamp(min=torch.finfo(spread.dtype).tiny), 0.0)


class UltraEdit(WeightEditor):
    """UltraEdit on feed-forward output matrices.

    The statistics are in the patch, so a next edit made on it goes on with them.

    Args:
        layers: indices of the blocks; None takes the last 3/16, 6 of 32.
        eta: size of a step. The larger, the surer the edit and the more else moves; what a model bears depends on its
            width and on the number of layers.
        ridge: weight of the change's own size; the paper's is 1.
        prior: how many tokens of mean 0 and equal spread the statistics begin with. The published code begins with
            none, so the features of a single token have no spread, and two tokens are normalised to opposites.
    """

    def __init__(
        self, layers: list[int] | None = None, eta: float = 1e-3, ridge: float = 1.0, prior: float = 16.0
    ) -> None:
        if layers is not None and not layers:
            raise ConfigError("editor.init_args.layers is empty, expected indices of blocks, or null")
        for name, value in {"eta": eta, "ridge": ridge, "prior": prior}.items():
            if value <= 0:
                raise ConfigError(f"editor.init_args.{name} is {value}, expected more than 0")
        self.layers = layers
        self.eta = eta
        self.ridge = ridge
        self.prior = prior

    def changes(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EncodedRequest],
        background: Background,
        previous: WeightDelta | None,
    ) -> Remembered:
        """Solve each matrix from the states of the model as it is."""
        projections = projections_of(model, self.layers)
        states = answer_states(model, requests, projections)
        found: dict[str, Change] = {}
        memory: dict[str, Tensor] = {}
        for name, projection in projections.items():
            seen = {part: rows.double() for part, rows in states[name]._asdict().items()}
            moments = {part: self._moments(rows, previous, f"{name}/{part}") for part, rows in seen.items()}
            left = self._left(seen["key"], seen["gradient"], moments["key"], moments["gradient"])
            found[name] = stored(projection, left, seen["key"])
            for part, known in moments.items():
                memory |= {f"{name}/{part}/{field}": value for field, value in asdict(known).items()}
        return Remembered(found, memory)

    def _moments(self, rows: Tensor, previous: WeightDelta | None, name: str) -> RunningMoments:
        places = [f"{name}/{field.name}" for field in fields(RunningMoments)]
        if previous is None or places[0] not in previous.memory:
            return RunningMoments.assumed(rows, self.prior).after(rows)
        return RunningMoments(*(previous.memory[field].to(rows.device) for field in places)).after(rows)

    def _left(self, keys: Tensor, gradients: Tensor, of_keys: RunningMoments, of_gradients: RunningMoments) -> Tensor:
        """The left factor of the change, [H, N]; the right one is the keys."""
        size = of_keys.normalised(keys).square().sum(1, keepdim=True)
        return ridge_solution(keys, -self.eta * size * of_gradients.normalised(gradients), self.ridge)

"""A repair's working copy: float32 masters of the matrices that it touches, worn by the model while it is looked at.

Nothing is written into the model's own weights. A half-precision model multiplies by the masters rounded, so what is
judged is what the patch will do, while steps too small for the model's precision still add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hotfix.data.edits import EncodedRequest
from hotfix.editors.repair.failures import Failure, Judgement, detect, judged, masked_logits
from hotfix.editors.repair.semantics import Semantics
from hotfix.editors.rows import TargetRows, target_rows
from hotfix.models.layout import Projection, feed_forward_output
from hotfix.models.states import hidden_states
from hotfix.models.weights import swapped_weights

__all__ = ["Workspace"]

_ROWS = 16


class Workspace:
    """The model under repair.

    Args:
        model: frozen, in evaluation mode.
        vocabulary: tokens that the tokenizer has.
        make_semantics: computes the head's geometry; called once, and only by methods that need it.
        texts: token ids of ordinary code.

    Attributes:
        weights: float32 masters of what was changed so far, by the weights' names and laid out as they are; replaced,
            never written into, so to keep the mapping is to be able to come back.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: int,
        make_semantics: Callable[[], Semantics],
        texts: Sequence[Sequence[int]] = (),
    ) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.texts = texts
        self.weights: Mapping[str, Tensor] = {}
        self._make_semantics = make_semantics
        self._places: dict[int, Projection] = {}

    @cached_property
    def semantics(self) -> Semantics:
        """The head's geometry."""
        return self._make_semantics()

    def place(self, layer: int) -> Projection:
        """Return a block's feed-forward output matrix."""
        if layer not in self._places:
            self._places[layer] = feed_forward_output(self.model, layer)
        return self._places[layer]

    def matrix(self, layer: int) -> Tensor:
        """Return a block's matrix as it is now, float32 [O, I]."""
        place = self.place(layer)
        if place.name not in self.weights:
            return place.weight.detach().float()
        return _turned(place, self.weights[place.name])

    def replaced(self, matrices: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Return the weights with other matrices [O, I] in some blocks."""
        new = {self.place(layer).name: _turned(self.place(layer), matrix) for layer, matrix in matrices.items()}
        return {**self.weights, **new}

    def moved(self, moves: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Return the weights with something [O, I] added to some blocks' matrices."""
        return self.replaced({layer: self.matrix(layer) + move for layer, move in moves.items()})

    @contextmanager
    def worn(self, weights: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """Put the masters on the model, or others."""
        with swapped_weights(self.model, self.weights if weights is None else weights):
            yield

    @contextmanager
    def trained(self, layers: Sequence[int]) -> Iterator[dict[int, nn.Parameter]]:
        """Put the masters on, those of some blocks as parameters with a gradient, laid out as the model has them."""
        shape = {layer: _turned(self.place(layer), self.matrix(layer)) for layer in layers}
        parameters = {layer: nn.Parameter(weight) for layer, weight in shape.items()}
        named: dict[str, Tensor] = {self.place(layer).name: weight for layer, weight in parameters.items()}
        with swapped_weights(self.model, {**self.weights, **named}):
            yield parameters

    def gradient(self, layer: int, parameter: nn.Parameter) -> Tensor:
        """Return a parameter's gradient as [O, I]."""
        assert parameter.grad is not None
        return _turned(self.place(layer), parameter.grad)

    def batches(self, requests: Sequence[EncodedRequest]) -> list[TargetRows]:
        """Lay out requests in batches; their target tokens keep their order."""
        parts = [requests[start : start + _ROWS] for start in range(0, len(requests), _ROWS)]
        return [target_rows(part, self.model.device) for part in parts]

    @torch.no_grad()
    def judge(self, batches: Sequence[TargetRows]) -> Judgement:
        """Judge all target tokens with the masters on, [N]."""
        with self.worn():
            found = [self._judge(rows) for rows in batches]
        return Judgement(torch.cat([f.margin for f in found]), torch.cat([f.other for f in found]))

    def failures(self, requests: Sequence[EncodedRequest]) -> list[Failure]:
        """Find the failures that are left."""
        with self.worn():
            return detect(self.model, requests, self.vocabulary)

    def changed(self) -> dict[str, Tensor]:
        """Return the matrices that differ from the model's own, in the model's precision."""
        own = dict(self.model.named_parameters())
        rounded = {name: weight.to(own[name].dtype) for name, weight in self.weights.items()}
        return {name: weight for name, weight in rounded.items() if not torch.equal(weight, own[name])}

    def _judge(self, rows: TargetRows) -> Judgement:
        states = hidden_states(self.model, rows.rows)[rows.row, rows.column]
        return judged(masked_logits(self.model, states, self.vocabulary), rows.token)


def _turned(place: Projection, weight: Tensor) -> Tensor:
    """From [O, I] to the way that the model holds it, or back: both are the same turn."""
    return weight.T.contiguous() if place.transposed else weight

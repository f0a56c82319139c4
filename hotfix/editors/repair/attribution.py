"""How much each neuron of a feed-forward part has to do with a token: gradient times activation.

A neuron is a column of the feed-forward output matrix; its activation is what enters there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hotfix.editors.repair.failures import judged, masked_logits
from hotfix.editors.rows import TargetRows
from hotfix.models.layout import feed_forward_output
from hotfix.models.states import hidden_states

__all__ = ["Attribution", "Neuron", "Score", "attributions", "best_neurons", "neuron_masks"]

Score: TypeAlias = Literal["probability", "log_probability", "margin"]


class Neuron(NamedTuple):
    """A column of a feed-forward output matrix."""

    layer: int
    column: int


class Attribution(NamedTuple):
    """What neurons have to do with some tokens, by layer.

    Attributes:
        scores: float32 [m] each.
        keys: the activations where the tokens are predicted, float32 [N, m] each.
    """

    scores: dict[int, Tensor]
    keys: dict[int, Tensor]


def best_neurons(scores: Mapping[int, Tensor], count: int) -> list[Neuron]:
    """Return the neurons with the largest scores over all layers, best first; one that scores nothing is none.

    >>> best_neurons({3: torch.tensor([0.0, 2.0]), 5: torch.tensor([3.0, 0.0])}, 3)
    [Neuron(layer=5, column=0), Neuron(layer=3, column=1)]
    """
    layers = sorted(scores)
    width = len(scores[layers[0]])
    pooled = torch.cat([scores[layer] for layer in layers])
    values, order = pooled.topk(min(count, len(pooled)))
    kept = [place for place, value in zip(order.tolist(), values.tolist(), strict=True) if value > 0]
    return [Neuron(layers[place // width], place % width) for place in kept]


def neuron_masks(scores: Mapping[int, Tensor], count: int) -> dict[int, Tensor]:
    """Return which neurons are among the best, by layer: bool [m] each."""
    masks = {layer: torch.zeros_like(score, dtype=torch.bool) for layer, score in scores.items()}
    for layer, column in best_neurons(scores, count):
        masks[layer][column] = True
    return masks


def attributions(
    model: PreTrainedModel, rows: TargetRows, layers: Sequence[int], vocabulary: int, of: Score
) -> Attribution:
    """Score neurons: the norm over positions of gradient times activation.

    Args:
        model: frozen; one pass forward and one back serve all layers.
        rows: whose target tokens are attributed, summed.
        layers: indices of blocks.
        vocabulary: tokens that the tokenizer has.
        of: what is attributed. A token's probability has no gradient left where the model is sure of another one;
            its logarithm and its margin have.
    """
    modules = {layer: feed_forward_output(model, layer).module for layer in layers}
    with _nudged(modules) as (nudges, seen):
        states = hidden_states(model, rows.rows)[rows.row, rows.column]
        value = _value(masked_logits(model, states, vocabulary), rows.token, of)
        gradients = torch.autograd.grad(value.sum(), list(nudges.values()))
    found = Attribution({}, {})
    for layer, gradient in zip(nudges, gradients, strict=True):
        product = gradient.float() * seen[layer].float()
        found.scores[layer] = product.flatten(0, 1).norm(dim=0)
        found.keys[layer] = seen[layer][rows.row, rows.column].float()
    return found


def _value(logits: Tensor, token: Tensor, of: Score) -> Tensor:
    if of == "margin":
        return judged(logits, token).margin
    logs = logits.log_softmax(dim=1).gather(1, token[:, None])
    return logs.exp() if of == "probability" else logs


@contextmanager
def _nudged(modules: Mapping[int, nn.Module]) -> Iterator[tuple[dict[int, Tensor], dict[int, Tensor]]]:
    """Add nothing to what enters modules, so that the gradient there can be asked for; also keep what enters."""
    nudges: dict[int, Tensor] = {}
    seen: dict[int, Tensor] = {}

    def hook(layer: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def put(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            seen[layer] = args[0].detach()
            nudges[layer] = torch.zeros_like(seen[layer]).requires_grad_()
            return (args[0] + nudges[layer], *args[1:])

        return put

    handles = [module.register_forward_pre_hook(hook(layer)) for layer, module in modules.items()]
    try:
        yield nudges, seen
    finally:
        for handle in handles:
            handle.remove()

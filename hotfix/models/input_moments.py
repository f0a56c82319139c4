"""Second moments of what enters chosen layers: what a layer's input looks like on some text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hotfix.errors import ModelError

__all__ = ["InputMoments"]


class InputMoments:
    """Mean of x x^T over chosen positions, for the input x of each layer, in float32.

    Layers that are handed the very same tensor (a block's q, k and v projections) share one moment.

    Args:
        layers: modules whose first argument is [B, T, D].
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._layers = layers
        self._sums: dict[nn.Module, Tensor] = {}
        self._source: dict[nn.Module, nn.Module] = {}
        self._count = 0

    def __getitem__(self, layer: nn.Module) -> Tensor:
        """Return a layer's moment, [D, D]."""
        if layer not in self._source:
            raise KeyError(f"{type(layer).__name__} was never run")
        return self._sums[self.source(layer)] / max(1, self._count)

    def __contains__(self, layer: nn.Module) -> bool:
        """Whether the layer was run."""
        return layer in self._source

    def source(self, layer: nn.Module) -> nn.Module:
        """Return the layer whose moment this layer shares; itself where it shares none."""
        return self._source[layer]

    @contextmanager
    def over(self, chosen: Tensor) -> Iterator[None]:
        """Watch one forward pass.

        Args:
            chosen: which positions count, bool [B, T].

        Raises:
            ModelError: a layer's input isn't laid out as the rows are (a mixture of experts; a model that takes no
                attention mask, and runs the branches of a row in turn).
        """
        shared: list[tuple[Tensor, nn.Module]] = []
        ran: set[nn.Module] = set()

        def look(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            if layer in ran:
                raise ModelError(
                    f"{type(layer).__name__} runs more than once for the same rows, so this model's layers can't be "
                    "told text positions"
                )
            ran.add(layer)
            source = next((first for seen, first in shared if seen is args[0]), None)
            if source is None:
                source = layer
                shared[:] = [(args[0], layer)]
                self._add(layer, args[0], chosen)
            self._source[layer] = source

        handles = [layer.register_forward_pre_hook(look) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self._count += int(chosen.sum())

    def _add(self, layer: nn.Module, entering: Tensor, chosen: Tensor) -> None:
        if entering.shape[:2] != chosen.shape:
            raise ModelError(
                f"what enters {type(layer).__name__} has the shape {tuple(entering.shape)}, expected "
                f"{tuple(chosen.shape)} and a width; this model's layers can't be told text positions"
            )
        picked = entering.detach()[chosen]
        # Inside autocast the product would be rounded to bfloat16.
        with torch.autocast(entering.device.type, enabled=False):
            picked = picked.float()
            moment = picked.T @ picked
        self._sums[layer] = self._sums[layer] + moment if layer in self._sums else moment

"""What of a text so far is compared with a codebook's keys; whatever the padding, the batch or the cache, the same."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, Self, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import Cache, DynamicLayer

from hotfix.errors import ModelError

__all__ = ["KeyEncoder", "Pool", "PrefixMeans", "exactly", "prefix_means"]

Pool: TypeAlias = Literal["last", "mean"]


class KeyEncoder(nn.Module):
    """A-GRACE's encoder (https://arxiv.org/abs/2411.06638), on top of a linear map that can be had in closed form.

    What is published is two linear maps with a leaky ReLU and dropout in between. Here they are added to K directions
    of the input, and begin at nothing.

    Args:
        width: D, of what is encoded.
        hidden: width between the maps.
        out: K, of the result.
        slope: of the leaky ReLU below zero.
        dropout: share of hidden units that is dropped in training.
    """

    middle: Tensor
    directions: Tensor

    def __init__(self, width: int, hidden: int, out: int, slope: float = 0.5, dropout: float = 0.5) -> None:
        super().__init__()
        self.register_buffer("middle", torch.zeros(width))
        self.register_buffer("directions", torch.eye(out, width))
        self.down, self.up = nn.Linear(out, hidden), nn.Linear(hidden, out)
        self.between = nn.Sequential(nn.LeakyReLU(slope), nn.Dropout(dropout))
        self.slope = slope
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Encode: [..., D] -> [..., K]."""
        linear = (inputs - self.middle) @ self.directions.T
        found: Tensor = linear + self.up(self.between(self.down(linear)))
        return found

    @classmethod
    def restored(cls, state: Mapping[str, Tensor], slope: float) -> Self:
        """Return an encoder of saved weights, in evaluation mode."""
        out, width = state["directions"].shape
        encoder = cls(width, len(state["down.weight"]), out, slope)
        encoder.load_state_dict(dict(state))
        return encoder.eval().requires_grad_(requires_grad=False)


def prefix_means(
    inputs: Tensor, mask: Tensor | None, past: int = 0, total: Tensor | None = None, count: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return what each position's mean is made of: the sum over all that it sees, [B, Q, D], and how many, [B, Q, 1].

    Args:
        inputs: float32 [B, Q, D].
        mask: what may be seen: all before (None), [B, past + Q], or [B, 1, Q, past + Q] as yes and no or as what is
            added to scores.
        past: positions that were read before.
        total: their sum [B, 1, D].
        count: how many of them were not padding, [B, 1, 1].

    >>> sums, counts = prefix_means(torch.tensor([[[9.0], [2.0], [4.0]]]), torch.tensor([[0, 1, 1]]))
    >>> (sums / counts)[0, 1:, 0]
    tensor([2., 3.])
    """
    length = inputs.shape[1]
    if mask is None or mask.dim() == 2:
        seen = inputs.new_ones(inputs.shape[:2]) if mask is None else mask[:, past : past + length].to(inputs.dtype)
        # Not by multiplying: what stands at padding may be no number.
        sums = inputs.masked_fill(seen[..., None] == 0, 0).cumsum(dim=1)
        counts = seen.cumsum(dim=1)[..., None]
    else:
        visible = (mask if mask.dtype == torch.bool else mask == 0)[:, 0, :, past : past + length].to(inputs.dtype)
        sums = visible.expand(len(inputs), -1, -1) @ inputs
        counts = visible.sum(dim=-1, keepdim=True).expand(len(inputs), -1, -1)
    return (sums, counts) if total is None or count is None else (sums + total, counts + count)


class _RunningSum(DynamicLayer):
    """One more layer of a key-value cache: the sum of what was read [B, 1, 1, D], and its count [B, 1, 1, 1].

    As a layer of the cache it goes wherever the keys and values go: rows are reordered, repeated, dropped and copied
    with them.

    Args:
        owner: name of the place whose inputs are summed.
    """

    is_croppable = False

    def __init__(self, owner: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owner = owner
        self.cumulative_length = 0

    def put(self, total: Tensor, count: Tensor, length: int) -> None:
        """Replace the sum [B, 1, D] and the count [B, 1, 1] by those of `length` positions."""
        self.dtype, self.device = total.dtype, total.device
        self.keys, self.values, self.is_initialized = total[:, None], count[:, None], True
        self.cumulative_length = length

    def get_seq_length(self) -> int:
        """Return how many positions were read."""
        return self.cumulative_length

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse to forget what was added already."""
        if tokens_to_remove:
            raise ModelError(
                "the codebook's key is a mean over the text so far, and no token of it can be taken back; generate "
                "without an assistant model"
            )


class PrefixMeans:
    """The mean of what enters a layer, over all that each position sees; a key-value cache carries the sum along.

    Args:
        decoder: of transformers; it tells of padding and cache.
        owner: name of the layer.

    Attributes:
        on: whether passes are watched; what is read in the meantime is none of its business.
    """

    def __init__(self, decoder: nn.Module, owner: str) -> None:
        self._decoder, self._owner, self.on = decoder, owner, True
        self._signature = inspect.signature(decoder.forward)
        self._mask: Tensor | None = None
        self._past = 0
        self._before: _RunningSum | None = None
        self._after: tuple[Tensor, Tensor] | None = None

    def attach(self) -> list[RemovableHandle]:
        """Watch every pass from now on, until the handles are removed."""
        return [
            self._decoder.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._decoder.register_forward_hook(self._end, with_kwargs=True),
        ]

    def of(self, inputs: Tensor) -> Tensor:
        """Return the means of what enters the layer in this pass: [B, Q, D] -> float32 [B, Q, D]."""
        earlier = self._before
        total = None if earlier is None else cast("Tensor", earlier.keys)[:, 0]
        count = None if earlier is None else cast("Tensor", earlier.values)[:, 0]
        sums, counts = prefix_means(inputs.float(), self._mask, self._past, total, count)
        self._after = sums[:, -1:], counts[:, -1:]
        return sums / counts.clamp(min=1)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self.on:
            return
        given = self._given(args, kwargs)
        mask, cache = given.get("attention_mask"), given.get("past_key_values")
        if mask is not None and not (isinstance(mask, Tensor) and mask.dim() in (2, 4)):
            raise ModelError(f"a codebook whose key is a mean can't read an attention mask of {type(mask).__name__}")
        self._past = cache.get_seq_length() if isinstance(cache, Cache) else 0
        self._mask, self._after = mask, None
        self._before = _running_sum(cache, self._owner) if self._past else None
        read = 0 if self._before is None else self._before.cumulative_length
        if read != self._past:
            raise ModelError(
                f"the key-value cache holds {self._past} positions, of which the codebook has seen {read}; read the "
                "text again with the patch on"
            )

    def _end(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:  # noqa: ANN401  a model output or a tuple
        if not self.on or self._after is None:
            return
        parts = output.values() if isinstance(output, Mapping) else output
        cache = next((part for part in parts if isinstance(part, Cache)), None)
        cache = cache or self._given(args, kwargs).get("past_key_values")
        if isinstance(cache, Cache) and cache.layers:
            layer = _running_sum(cache, self._owner)
            if layer is None:
                # Behind all others, which a cache may make as late as they are first asked for.
                layer = _RunningSum(self._owner)
                cache.layers.append(layer)
            layer.put(*self._after, cache.get_seq_length())
        self._after = self._mask = self._before = None

    def _given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        given = dict(self._signature.bind_partial(*args, **kwargs).arguments)
        return {**given, **given.pop("kwargs", {})}


def exactly(device: torch.device) -> AbstractContextManager[None]:
    """Compute in the tensors' own precision, also where a model runs under autocast."""
    return cast("AbstractContextManager[None]", torch.autocast(device.type, enabled=False))


def _running_sum(cache: Cache | None, owner: str) -> _RunningSum | None:
    layers = [] if cache is None else cache.layers
    return next((layer for layer in layers if isinstance(layer, _RunningSum) and layer.owner == owner), None)

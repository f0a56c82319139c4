"""A change of the base's own weights as a patch: new values, or factors of low rank that are added."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hotfix.errors import PatchError
from hotfix.models.weights import replace_weights, swapped_weights
from hotfix.patches.base import Patch, Provenance, check_base

__all__ = ["Change", "LowRank", "WeightDelta", "composed"]

_FILE = "weights.safetensors"
_LEFT, _RIGHT = ".left", ".right"
_MEMORY = "memory/"  # no weight's name has a slash


@dataclass(frozen=True)
class LowRank:
    """What is added to a weight of shape [O, I]: `left @ right`.

    Args:
        left: [O, r].
        right: [r, I].
    """

    left: Tensor
    right: Tensor

    def added_to(self, weight: Tensor) -> Tensor:
        """Return the sum, computed in float32 and rounded once to the weight's precision.

        >>> import torch
        >>> LowRank(torch.ones(2, 1), torch.tensor([[1.0, 2.0]])).added_to(torch.zeros(2, 2))
        tensor([[1., 2.],
                [1., 2.]])
        """
        product = self.left.to(weight.device).float() @ self.right.to(weight.device).float()
        return (weight.detach().float() + product).to(weight.dtype)


Change: TypeAlias = Tensor | LowRank


def composed(first: Mapping[str, Change], then: Mapping[str, Change]) -> dict[str, Change]:
    """Return the changes that do what two do one after the other, by the names of weights.

    >>> one = LowRank(torch.ones(1, 1), torch.ones(1, 2))
    >>> both = composed({"w": one}, {"w": one})["w"]
    >>> both.added_to(torch.zeros(1, 2))
    tensor([[2., 2.]])
    """
    return {**first, **{name: _both(first.get(name), change) for name, change in then.items()}}


class WeightDelta(Patch):
    """New weights in the place of some of the base's; the base's own are put aside and come back themselves.

    A whole tensor is the new value, kept as it was trained: a difference would have to be rounded, and adding it again
    would not give the same weights. In the folder it has the weight's own name, so plain `load_state_dict(...,
    strict=False)` takes it.

    Args:
        provenance: where it comes from.
        changes: by the names of the model's `named_parameters`.
        folder: with `weights.safetensors`; one of the two is given.
        memory: what the editor has to know of these edits when it makes the next, by its own names; no weight depends
            on it.

    Raises:
        PatchError: the folder's file is missing or damaged.
    """

    def __init__(
        self,
        provenance: Provenance,
        folder: Path | None = None,
        changes: Mapping[str, Change] | None = None,
        memory: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.provenance = provenance
        self.changes = dict(changes or {})
        self.memory = dict(memory or {})
        if folder is not None:
            self.changes, self.memory = _read(folder / _FILE)
        self._before: WeakKeyDictionary[nn.Module, dict[str, nn.Parameter]] = WeakKeyDictionary()

    def apply(self, model: nn.Module) -> nn.Module:
        """Put the new weights on, frozen; the model itself is returned."""
        check_base(self.provenance, model)
        own = dict(model.named_parameters())
        for name, change in self.changes.items():
            _check_fit(name, change, own)
        self._before[model] = replace_weights(model, {n: _changed(own[n], c) for n, c in self.changes.items()})
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Put the base's own weights back."""
        replace_weights(model, self._base_of(model))
        del self._before[model]
        return model

    def reference(self, model: nn.Module) -> AbstractContextManager[None]:
        """Put the base's own weights back for a while, as precise as the model is held meanwhile."""
        own = dict(model.named_parameters(remove_duplicate=False))
        base = self._base_of(model).items()
        return swapped_weights(model, {n: w if w.dtype == own[n].dtype else w.to(own[n].dtype) for n, w in base})

    def save(self, folder: Path) -> None:
        """Write the weights."""
        tensors = {_MEMORY + name: part.detach().cpu().contiguous() for name, part in self.memory.items()}
        for name, change in self.changes.items():
            parts = {_LEFT: change.left, _RIGHT: change.right} if isinstance(change, LowRank) else {"": change}
            tensors |= {name + end: part.detach().cpu().contiguous() for end, part in parts.items()}
        save_file(tensors, folder / _FILE)

    def _base_of(self, model: nn.Module) -> dict[str, nn.Parameter]:
        if model not in self._before:
            raise PatchError(f"this patch isn't on the {type(model).__name__}; apply it first")
        return self._before[model]


def _both(first: Change | None, then: Change) -> Change:
    if first is None or not isinstance(then, LowRank):
        return then
    if isinstance(first, LowRank):
        return _sum(first, then)
    return then.added_to(first)


def _sum(first: LowRank, then: LowRank) -> LowRank:
    """Side by side; beyond full rank, where the factors would outgrow the matrix edit by edit, multiplied out."""
    left, right = torch.cat([first.left, then.left], dim=1), torch.cat([first.right, then.right], dim=0)
    full = min(len(left), right.shape[1])
    if len(right) <= full:
        return LowRank(left, right)
    product, eye = left.float() @ right.float(), torch.eye(full, device=left.device)
    return LowRank(eye, product) if full == len(left) else LowRank(product, eye)


def _changed(weight: Tensor, change: Change) -> Tensor:
    return change.added_to(weight) if isinstance(change, LowRank) else change.to(weight.dtype)


def _check_fit(name: str, change: Change, own: Mapping[str, Tensor]) -> None:
    shape = (len(change.left), change.right.shape[1]) if isinstance(change, LowRank) else tuple(change.shape)
    found = tuple(own[name].shape) if name in own else None
    if found != shape:
        what = f"of shape {list(found)}" if found else "missing"
        raise PatchError(f"the patch changes {name} of shape {list(shape)}, which in this model is {what}")


def _read(path: Path) -> tuple[dict[str, Change], dict[str, Tensor]]:
    try:
        every = load_file(path)
        memory = {n.removeprefix(_MEMORY): t for n, t in every.items() if n.startswith(_MEMORY)}
        tensors = {n: t for n, t in every.items() if not n.startswith(_MEMORY)}
        whole: dict[str, Change] = {n: t for n, t in tensors.items() if not n.endswith((_LEFT, _RIGHT))}
        names = [n.removesuffix(_LEFT) for n in tensors if n.endswith(_LEFT)]
        return whole | {n: LowRank(tensors[n + _LEFT], tensors[n + _RIGHT]) for n in names}, memory
    except (OSError, SafetensorError, KeyError) as error:
        raise PatchError(f"{path}: the weights can't be loaded ({error}); fit the patch again") from error

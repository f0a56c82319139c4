"""A model's own weights, put aside for others and back; nothing is ever written into them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

__all__ = ["replace_weights", "swapped_weights"]


def replace_weights(model: nn.Module, new: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """Put tensors in the place of weights, everywhere they are used (a tied head and embedding alike).

    Args:
        model: whose weights they replace.
        new: tensors by the names of `named_parameters`; parameters are put as they are, other tensors frozen.

    Returns:
        What was there; `replace_weights(model, returned)` puts the very same parameters back.

    Raises:
        KeyError: the model has no weight of that name.
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    before = {name: known[name] for name in new}
    put = {id(before[name]): _parameter(tensor, before[name]) for name, tensor in new.items()}
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None and id(old) in put:
                module._parameters[name] = put[id(old)]
    return before


@contextmanager
def swapped_weights(model: nn.Module, other: Mapping[str, Tensor]) -> Iterator[None]:
    """Give the model other weights for a while."""
    before = replace_weights(model, other)
    try:
        yield
    finally:
        replace_weights(model, before)


def _parameter(tensor: Tensor, old: nn.Parameter) -> nn.Parameter:
    if isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor.detach().to(old.device), requires_grad=False)

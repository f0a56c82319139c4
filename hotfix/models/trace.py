"""What goes into a module and what comes out, seen or changed during a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

__all__ = ["captured", "changed_output"]


@contextmanager
def captured(modules: Mapping[str, nn.Module], what: Literal["input", "output"]) -> Iterator[dict[str, Tensor]]:
    """Keep what goes into or comes out of modules, with its gradient history, as [B, T, D] of the last pass.

    Args:
        modules: by any name.
        what: the first argument, or the result (its first part where it is a tuple).

    Yields:
        The tensors by the same names, filled in when the model runs.

    >>> import torch
    >>> layer = nn.Linear(2, 1)
    >>> with captured({"layer": layer}, "input") as seen:
    ...     _ = layer(torch.ones(1, 1, 2))
    >>> seen["layer"]
    tensor([[[1., 1.]]])
    """
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def look(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:  # noqa: ANN401  a tensor or a tuple
            seen[name] = args[0] if what == "input" else _first(result)

        return look

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def changed_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put a module's output through a function: [B, T, D] -> [B, T, D].

    >>> import torch
    >>> layer = nn.Identity()
    >>> with changed_output(layer, lambda out: out + 1):
    ...     layer(torch.zeros(1, 1, 2))
    tensor([[[1., 1.]]])
    """

    def put(module: nn.Module, args: tuple[Any, ...], result: Any) -> Any:  # noqa: ANN401  a tensor or a tuple
        return (change(result[0]), *result[1:]) if isinstance(result, tuple) else change(result)

    handle = module.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def _first(result: Any) -> Tensor:  # noqa: ANN401  a tensor or a tuple
    found: Tensor = result[0] if isinstance(result, tuple) else result
    return found

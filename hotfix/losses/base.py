"""The loss seam: one weighted summand of the objective."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from hotfix.errors import ConfigError
from hotfix.losses.passes import Passes

__all__ = ["LossTerm"]


class LossTerm(nn.Module, ABC):
    """A summand. Subclass it anywhere and name the class by `class_path`.

    `forward` returns an unweighted scalar and says its unit and what it is divided by. Use `passes.mean` for means over
    tokens: it divides by the tokens of the whole optimizer step, so that accumulation and processes change nothing.

    Args:
        weight: factor of the term in the objective.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if not weight >= 0:
            raise ConfigError(f"weight of {type(self).__name__} is {weight}, expected 0 or more")
        self.weight = weight

    def _more_than_zero(self, **settings: float) -> None:
        for name, value in settings.items():
            if not value > 0:
                raise ConfigError(f"{name} of {type(self).__name__} is {value}, expected more than 0")

    @abstractmethod
    def forward(self, passes: Passes) -> Tensor:
        """Return the unweighted term, float32 []."""

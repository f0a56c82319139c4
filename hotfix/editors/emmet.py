"""EMMET: ROME for many values at once (Gupta et al. 2024, https://arxiv.org/abs/2403.14236)."""

from __future__ import annotations

from typing import ClassVar

from hotfix.editors.locate_then_edit import Layers, Window
from hotfix.editors.rome import ROME
from hotfix.editors.values import Search
from hotfix.errors import ConfigError

__all__ = ["EMMET"]


class EMMET(ROME):
    """All requests' values are given at once by one matrix, as exactly as `mu` says.

    Args:
        layers: see `ROME`.
        search: of the values.
        mu: how far from exact, in units of the mean of k^T C^-1 k over the keys; without it, two keys that are nearly
            equal and want different values make the change explode. Published: 0.1 against 100,000 times C.
        ridge: see `ROME`.
        window: see `ROME`.
        remember: in sequential mode, hold what the keys of earlier edits give.
        hold: see `ROME`.
        rounds: see `ROME`.
        drift: see `ROME`.
    """

    one_by_one: ClassVar[bool] = False

    def __init__(
        self,
        layers: Layers = None,
        search: Search | None = None,
        mu: float = 1e-3,
        ridge: float = 1e-4,
        window: Window = None,
        remember: bool = True,
        hold: int = 0,
        rounds: int = 1,
        drift: float | None = None,
    ) -> None:
        super().__init__(layers, search, ridge, window, hold=hold, rounds=rounds, drift=drift)
        if mu < 0:
            raise ConfigError(f"editor.init_args.mu is {mu}, expected 0 or more")
        self.mu = mu
        self.remember = remember

    def strength(self, width: int) -> tuple[float, bool]:
        """Mu, relative to the keys."""
        return self.mu, True

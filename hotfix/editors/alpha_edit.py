"""AlphaEdit: MEMIT within what ordinary keys don't use (Fang et al. 2024, https://arxiv.org/abs/2410.02355)."""

from __future__ import annotations

from torch import Tensor

from hotfix.editors.closed_form import LinearMap, by_projector
from hotfix.editors.key_statistics import Derived
from hotfix.editors.layers import at_depths
from hotfix.editors.locate_then_edit import Layers, LocateThenEdit, Window
from hotfix.editors.values import Search
from hotfix.errors import ConfigError

__all__ = ["AlphaEdit"]


class AlphaEdit(LocateThenEdit):
    """Changes of the matrices act only on directions that ordinary keys hardly use; earlier edits' keys are held.

    What is remembered is in the patch, so two runs have nothing of each other.

    Args:
        layers: see `MEMIT`.
        search: of the values.
        threshold: share of ordinary keys' square length that the directions may hold which are changed. Published:
            singular values below 0.02, whatever the model's are.
        ridge: L2, in units of the mean of k^T P k over the keys. Published: 1, absolute.
        window: part a longer target into windows of so many tokens, each with a vector of its own; `auto`: as short as
            leaves room, see `LocateThenEdit`.
        remember: in sequential mode, hold what the keys of earlier edits give.
        hold: keep what the keys of so many other prompts give: of requests that may be learnt from, else the prompt's
            own with other words in the middle. All prompts of a template end alike, and without it an edit fires at
            them, too. Published: 0.
        rounds: see `MEMIT`.
        drift: the farthest that a solve may move a matrix within those directions, over its own length there: `ridge`
            is raised until that holds. Published: no limit.
    """

    def __init__(
        self,
        layers: Layers = None,
        search: Search | None = None,
        threshold: float = 0.02,
        ridge: float = 0.1,
        window: Window = None,
        remember: bool = True,
        hold: int = 0,
        rounds: int = 1,
        drift: float | None = None,
    ) -> None:
        super().__init__(layers, search or Search(), window, remember, hold, rounds, drift)
        if not 0 < threshold <= 1 or ridge < 0:
            raise ConfigError(
                f"editor.init_args: threshold is {threshold} and ridge {ridge}, expected a share, and 0 or more"
            )
        self.threshold = threshold
        self.ridge = ridge

    def usual_blocks(self, count: int) -> list[int]:
        """Return blocks 4 to 8 of 32."""
        return at_depths([4 / 31, 5 / 31, 6 / 31, 7 / 31, 8 / 31], count)

    def derived(self) -> Derived:
        """The directions that are hardly used."""
        return Derived("null_space", self.threshold)

    def inverse(self, factor: Tensor) -> LinearMap:
        """The projector onto them."""
        return by_projector(factor)

    def strength(self, width: int) -> tuple[float, bool]:
        """L2, relative to the keys."""
        return self.ridge, True

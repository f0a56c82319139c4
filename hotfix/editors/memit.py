"""MEMIT: many values at once, spread over several blocks (Meng et al. 2022, https://arxiv.org/abs/2210.07229)."""

from __future__ import annotations

from hotfix.editors.key_statistics import Derived
from hotfix.editors.layers import at_depths
from hotfix.editors.locate_then_edit import Layers, LocateThenEdit, Window
from hotfix.editors.values import Search
from hotfix.errors import ConfigError

__all__ = ["MEMIT"]


class MEMIT(LocateThenEdit):
    """The block's output is searched, and every block up to there takes an equal share of what is still missing.

    Args:
        layers: blocks whose feed-forward output matrix is changed, the last of them where values are searched; `auto`
            measures which; null takes those at the depths of the paper's (4 to 8 of 32).
        search: of the values.
        weight: lambda, of ordinary keys against the edited ones, in units of the keys' width: then it weighs the same
            in any model. Published: 15,000 in all, which is 0.92 widths of GPT-J's 16,384.
        ridge: added to the second moment's diagonal, relative to its mean.
        window: part a longer target into windows of so many tokens, each with a vector of its own; `auto`: as short as
            leaves room, see `LocateThenEdit`.
        remember: in sequential mode, hold the keys of earlier edits against the new ones; the published code forgets
            them.
        hold: keep what the keys of so many other prompts give: of requests that may be learnt from, else the prompt's
            own with other words in the middle. All prompts of a template end alike, and without it an edit fires at
            them, too. Published: 0.
        rounds: search and solve again, at most so often, until every target token is the likeliest: what a vector gives
            at one token moves what the next needs, and a mean key is no prompt's own. Published: 1.
        drift: the farthest that a solve may move what a matrix gives for ordinary keys, over what it gives, in root
            mean squares: `weight` is raised until that holds, and what it leaves missing is for the next block and the
            next round. Many requests at once ask for a larger weight than one. Published: no limit.
    """

    def __init__(
        self,
        layers: Layers = None,
        search: Search | None = None,
        weight: float = 0.9,
        ridge: float = 1e-4,
        window: Window = None,
        remember: bool = True,
        hold: int = 0,
        rounds: int = 1,
        drift: float | None = None,
    ) -> None:
        super().__init__(layers, search or Search(), window, remember, hold, rounds, drift)
        if weight < 0 or ridge <= 0:
            raise ConfigError(f"editor.init_args: weight is {weight} and ridge {ridge}, expected 0 or more, and more")
        self.weight = weight
        self.ridge = ridge

    def usual_blocks(self, count: int) -> list[int]:
        """Return blocks 4 to 8 of 32."""
        return at_depths([4 / 31, 5 / 31, 6 / 31, 7 / 31, 8 / 31], count)

    def derived(self) -> Derived:
        """A Cholesky factor."""
        return Derived("cholesky_factor", self.ridge)

    def strength(self, width: int) -> tuple[float, bool]:
        """Lambda."""
        return self.weight * width, False

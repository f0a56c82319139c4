"""ROME: one value written into one matrix (Meng et al. 2022, https://arxiv.org/abs/2202.05262)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hotfix.editors.closed_form import Factors
from hotfix.editors.key_statistics import Derived, Ordinary
from hotfix.editors.layers import at_depths
from hotfix.editors.locate_then_edit import Layers, LocateThenEdit, Observed, Window
from hotfix.editors.values import Place, Search
from hotfix.errors import ConfigError
from hotfix.models.layout import feed_forward_output

__all__ = ["ROME"]


class ROME(LocateThenEdit):
    """The feed-forward output of one block is searched, and its matrix gives it exactly.

    The key is the mean over all contexts wherever the equation has one, as in R-ROME (Gupta et al. 2024,
    https://arxiv.org/abs/2403.07175). The published code divides by another key than the one it writes to; where the
    two differ much, the change explodes. `protocol: paper` does so, too.

    Several requests are solved one after the other, each on the weights that the earlier ones left.

    Args:
        layers: the block whose feed-forward output matrix is changed; `auto` measures which; null takes the one at the
            depth of the paper's (5 of 32).
        search: of the value.
        ridge: added to the second moment's diagonal, relative to its mean.
        window: part a longer target into windows of so many tokens, each with a vector of its own; those of one request
            are solved together.
        protocol: see above.
        hold: keep what the keys of so many other prompts give: of requests that may be learnt from, else the prompt's
            own with other words in the middle. All prompts of a template end alike, and without it an edit fires at
            them, too. Published: 0.
        rounds: search and solve again, at most so often, until every target token is the likeliest: what a vector gives
            at one token moves what the next needs, and a mean key is no prompt's own. Published: 1.
        drift: the farthest that a solve may move what the matrix gives for ordinary keys, over what it gives, in root
            mean squares; heeded by `protocol: consistent`. Published: no limit.
    """

    one_by_one: ClassVar[bool] = True
    written: ClassVar[str] = "feed-forward"

    def __init__(
        self,
        layers: Layers = None,
        search: Search | None = None,
        ridge: float = 1e-4,
        window: Window = None,
        protocol: Literal["consistent", "paper"] = "consistent",
        hold: int = 0,
        rounds: int = 1,
        drift: float | None = None,
    ) -> None:
        super().__init__(layers, search or Search(), window, False, hold, rounds, drift)
        if isinstance(layers, list) and len(layers) != 1:
            raise ConfigError(f"editor.init_args.layers is {layers}, expected one block for {type(self).__name__}")
        if ridge <= 0:
            raise ConfigError(f"editor.init_args.ridge is {ridge}, expected more than 0")
        self.ridge = ridge
        self.protocol = protocol

    def usual_blocks(self, count: int) -> list[int]:
        """Return block 5 of 32."""
        return at_depths([5 / 31], count)

    def place(self, model: PreTrainedModel, block: int) -> Place:
        """The matrix's own output."""
        return Place(block, {self.written: feed_forward_output(model, block).module})

    def derived(self) -> Derived:
        """A Cholesky factor."""
        return Derived("cholesky_factor", self.ridge)

    def strength(self, width: int) -> tuple[float, bool]:
        """No ridge: the value is given exactly."""
        return 0.0, False

    def key(self, seen: Observed) -> Tensor:
        """The mean over all contexts."""
        return seen.keys.mean(0)

    def current(self, seen: Observed) -> Tensor:
        """What the matrix gives for the key; linear, so the mean of what it gives in each context."""
        return seen.outputs[0] if self.protocol == "paper" else seen.outputs.mean(0)

    def solution(self, ordinary: Ordinary, seen: Sequence[Observed], gain: Tensor, kept: Tensor | None) -> Factors:
        """As published, where that is asked for: gain (C^-1 k)^T / (k0 C^-1 k), with k0 the bare prompt's key."""
        if self.protocol == "consistent":
            return super().solution(ordinary, seen, gain, kept)
        spread = self.inverse(ordinary.factor)(torch.stack([self.key(one) for one in seen], dim=1).double())
        bare = torch.stack([one.keys[0] for one in seen], dim=1).double()
        return Factors(gain, torch.linalg.solve(spread.T @ bare, spread.T).float())

"""GRACE: a codebook whose key is what enters the projection at the prompt's last token.

Hartvigsen et al. 2023 (https://arxiv.org/abs/2211.11031). A request's value is trained alone; where the input of any
token is within a ball's radius of its key, the value takes the output's place.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hotfix.editors.base import Background
from hotfix.editors.memory import MemoryEditor
from hotfix.errors import ConfigError
from hotfix.patches.codebook import KeyRule

__all__ = ["GRACE"]


class GRACE(MemoryEditor):
    """Keys are inputs of the projection at the last prompt token; it generalises to nothing but the prompt itself.

    Args:
        block: index of the block, or its depth below 1. Published: 27 of 32 blocks, which is 0.84.
        radius: of a ball by itself. Published: 1.
        relative: whether the radius is in lengths of the key, or an absolute number. Published: absolute, which in one
            model is less than the rounding of half precision, and in another reaches to other prompts.
        steps: of Adam, at most. Published: 30, all of them.
        learning_rate: of Adam, in root mean squares of the projection's own output at the prompt's end. Published: 1,
            not relative.
        start: `warm` begins with that output, `cold` with numbers drawn from [0, 1), as published.
        enough: stop when every target token is the likeliest and their mean loss is below this, in nats a token.
        together: how many values are searched in one pass, at most. Published: 1.
    """

    def __init__(
        self,
        block: float = 0.6,
        radius: float = 0.12,
        relative: bool = True,
        steps: int = 100,
        learning_rate: float = 1.0,
        start: Literal["warm", "cold"] = "warm",
        enough: float = 0.05,
        together: int = 16,
    ) -> None:
        if radius <= 0:
            raise ConfigError(f"editor.init_args.radius is {radius}, expected more than 0")
        super().__init__(block, steps, learning_rate, start, enough, together)
        self.radius = radius
        self.relative = relative

    def rule(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, blocks: KeyRule, background: Background
    ) -> KeyRule:
        """Compare the last token's own input."""
        return blocks

    def reach(self, key: Tensor, rule: KeyRule) -> float:
        """Return the radius, in lengths of the key where it is relative."""
        return self.radius * float(key.norm()) if self.relative else self.radius

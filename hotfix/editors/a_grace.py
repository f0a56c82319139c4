"""A-GRACE: GRACE with a learnt key, so that an edit fires for other words of the same request, too.

Li et al. 2024 (https://arxiv.org/abs/2411.06638). The key is an encoding of the mean of what enters the
projection over the prompt. The published code computes that mean where a prompt is read, once: from a model's second
generation on it is the mean of nothing, and the edit is off. Here it is the mean over the text so far, at every token,
and a key-value cache carries it along.

A mean moves slowly: it comes near a key before the prompt has ended, and stays near it for some of the answer. A value
that comes out at all of these places, which differ from paraphrase to paraphrase, answers few of them; so it comes out
only where the token itself is like that at the prompt's end. And while lower blocks tell which request a text is, a
value is worth the same behind other words where little of the model is left to read them: keys and values have blocks
of their own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hotfix.editors.base import Background
from hotfix.editors.encoder import Contrast, learnt_rule
from hotfix.editors.memory import MemoryEditor
from hotfix.patches.codebook import KeyRule
from hotfix.patches.queries import Pool

__all__ = ["AGRACE"]


class AGRACE(MemoryEditor):
    """Keys are encodings of the text so far; encoder and radius are learnt from requests that are not edited.

    Args:
        block: index of the block, or its depth below 1. Published: 27 of 32 blocks, which is 0.84; means of lower
            blocks' inputs tell paraphrases from neighbours better.
        pool: `mean` over all tokens so far, or each token's own (`last`, an ablation).
        encodes: whether the pooled input is encoded; without (an ablation) only the radius is learnt.
        value_block: index or depth of the block where values come out, at or above `block`; null for the same, as
            published.
        at_end: whether an edit fires only where the token's own input is like that at its prompt's end, too; how like
            is learnt. Published: wherever the key is near, which there is the end of the prompt by its position.
        contrast: how encoder and radius are learnt; null for the defaults.
        steps: of Adam on a value, at most. Published: 30, all of them.
        learning_rate: of Adam, in root mean squares of the projection's own output at the prompt's end. Published: 1,
            not relative.
        start: `warm` begins with that output, `cold` with numbers drawn from [0, 1), as published.
        enough: stop when every target token is the likeliest and their mean loss is below this, in nats a token.
        together: how many values are searched in one pass, at most. Published: 1.
        prefixes: beginnings from ordinary code, of ten tokens at most, behind which a value has to answer, too.
            Published: none.
    """

    def __init__(
        self,
        block: float = 0.2,
        pool: Pool = "mean",
        encodes: bool = True,
        value_block: float | None = 0.8,
        at_end: bool = True,
        contrast: Contrast | None = None,
        steps: int = 100,
        learning_rate: float = 1.0,
        start: Literal["warm", "cold"] = "warm",
        enough: float = 0.05,
        together: int = 16,
        prefixes: int = 2,
    ) -> None:
        super().__init__(block, steps, learning_rate, start, enough, together, value_block, prefixes)
        self.pool = pool
        self.encodes = encodes
        self.at_end = at_end
        self.contrast = contrast or Contrast()

    def rule(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, blocks: KeyRule, background: Background
    ) -> KeyRule:
        """Learn encoder, radius and what the end of a prompt is like."""
        rule = replace(blocks, pool=self.pool)
        return learnt_rule(
            model, tokenizer, rule, background.requests, self.contrast, encodes=self.encodes, at_end=self.at_end
        )

    def reach(self, key: Tensor, rule: KeyRule) -> float:
        """Return the learnt radius."""
        assert rule.reach is not None
        return rule.reach

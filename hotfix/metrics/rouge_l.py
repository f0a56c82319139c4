"""ROUGE-L (Lin 2004, https://aclanthology.org/W04-1013): the longest common subsequence of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hotfix.metrics.answers import DECIMALS, Strip, answers
from hotfix.metrics.base import ExampleMetric, Kind, Record, Tally
from hotfix.metrics.tokenisers import TOKENISERS, Tokens

__all__ = ["RougeL", "longest_common_subsequence", "rouge_l"]

_DRAWS = 1000


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest sequence that both hold in order, not necessarily without gaps.

    >>> longest_common_subsequence("abcbdab", "bdcaba")
    4
    """
    row = [0] * (len(second) + 1)
    for token in first:
        corner = 0
        for j, other in enumerate(second, 1):
            corner, row[j] = row[j], corner + 1 if token == other else max(row[j], row[j - 1])
    return row[-1]


def rouge_l(written: Sequence[str], reference: Sequence[str]) -> float:
    """Return the F-measure of the longest common subsequence, in [0, 1]; 0 where either has no tokens.

    >>> rouge_l("a b c d".split(), "a c d e f g".split())
    0.6
    """
    total = len(written) + len(reference)
    return 2 * longest_common_subsequence(written, reference) / total if written and reference else 0.0


def _bootstrap_median(scores: Sequence[float]) -> float:
    """Return the median of 1,000 resampled means, drawn from a fixed seed.

    >>> _bootstrap_median([0.25]), 0 < _bootstrap_median([0.0, 0.0, 0.0, 0.0, 1.0]) < 0.5
    (0.25, True)
    """
    chosen = np.random.default_rng(0).integers(len(scores), size=(_DRAWS, len(scores)))
    return float(np.median(np.asarray(scores)[chosen].mean(axis=1)))


class RougeL(ExampleMetric):
    """Mean over examples of the ROUGE-L of an example's answers; over code tokens, so operators and case count.

    As the published code of CLMEEval has it: `RougeL(tokens="alphanumeric", strip="written", bootstrap=True,
    rounded=True)`. Its scorer sees letters and digits only, so `a == b` is `a != b`, and of several answers it takes
    the median of bootstrap means, which there is different in every run and here is drawn from a fixed seed.

    Args:
        num_examples: size of the set.
        tokens: `code`, `13a` or `alphanumeric`; see `hotfix.metrics.tokenisers`.
        strip: whose white space at the ends doesn't count.
        bootstrap: an example's value is the median of resampled means of its answers' scores.
        rounded: to 3 decimals, before averaging.

    >>> metric = RougeL(1)
    >>> metric.update(0, {"written": ["a == b"], "reference": ["a != b"]})
    >>> metric.compute().item()
    0.75
    """

    higher_is_better = True
    kind: Kind = "real"

    def __init__(
        self,
        num_examples: int = 0,
        tokens: Tokens = "code",
        strip: Strip = "both",
        bootstrap: bool = False,
        rounded: bool = False,
    ) -> None:
        super().__init__(num_examples)
        self.tokens: Tokens = tokens
        self.strip: Strip = strip
        self.bootstrap = bootstrap
        self.rounded = rounded

    def observe(self, record: Record) -> Tally:
        """Score the answers."""
        cut = TOKENISERS[self.tokens]
        sides = [(cut(pair.written), cut(pair.reference)) for pair in answers(record, self.strip)]
        # The base's own empty answer, written again; the published scorer gives it nothing.
        scores = [1.0 if not (a or b) and self.tokens == "code" else rouge_l(a, b) for a, b in sides]
        if self.bootstrap and scores:
            scores = [_bootstrap_median(scores)]
        return Tally(sum(round(s, DECIMALS) if self.rounded else s for s in scores), float(len(scores)))

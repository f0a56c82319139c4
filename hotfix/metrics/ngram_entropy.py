"""Is a text fluent or does it turn in circles? The entropy of its n-grams."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Final

from hotfix.metrics.base import ExampleMetric, Kind, Record, Tally

__all__ = ["NgramEntropy", "ngram_entropy"]

_WEIGHTS: Final = ((2, 2 / 3), (3, 4 / 3))


def ngram_entropy(tokens: Sequence[Hashable]) -> float:
    """Return the mean of 2/3 of the entropy of pairs and 4/3 of that of triples, in bits.

    Zhang et al. 2018 (https://arxiv.org/abs/1809.05972, equation 7), weighted as ROME's evaluation
    (https://arxiv.org/abs/2202.05262) has it. Fewer tokens than an n-gram has give an entropy of 0.

    >>> ngram_entropy("aaaaaaaa"), ngram_entropy("a")
    (0.0, 0.0)
    >>> round(ngram_entropy("abcde"), 4) == round((2 / 3 * 2 + 4 / 3 * math.log2(3)) / 2, 4)
    True
    """
    return sum(weight * _entropy(tokens, n) for n, weight in _WEIGHTS) / len(_WEIGHTS)


class NgramEntropy(ExampleMetric):
    """Mean over examples of the n-gram entropy of their texts, in bits.

    A text that the model could not write at all, because its logits are no numbers, is `null` in the record and has
    no entropy: it counts as 0. Texts that end before their third token are no less fluent for it, and don't count.
    With `survivors`, as in the published code of CLMEEval, it is the other way round: what could not be written drops
    out of the mean, and a short text counts as it is, mostly 0.

    Args:
        num_examples: size of the set.
        survivors: see above.
        field: of the record, a list of texts, each a list of tokens, or null.

    >>> metric = NgramEntropy(1)
    >>> metric.update(0, {"tokens": [[1, 2, 1, 2, 1]]})
    >>> round(metric.compute().item(), 4)
    0.9455
    """

    higher_is_better = True
    kind: Kind = "real"

    def __init__(self, num_examples: int = 0, survivors: bool = False, field: str = "tokens") -> None:
        super().__init__(num_examples)
        self.survivors = survivors
        self.field = field

    def observe(self, record: Record) -> Tally:
        """Find the entropy of each text that counts."""
        texts = record[self.field]
        if self.survivors:
            kept = [text for text in texts if text is not None]
        else:
            kept = [text or [] for text in texts if text is None or len(text) >= len(_WEIGHTS) + 1]
        return Tally(sum(map(ngram_entropy, kept)), float(len(kept)))


def _entropy(tokens: Sequence[Hashable], n: int) -> float:
    counts = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    total = counts.total()
    return math.fsum(count / total * math.log2(total / count) for count in counts.values())

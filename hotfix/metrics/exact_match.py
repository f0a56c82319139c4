"""Is what was written the reference, character by character?"""

from __future__ import annotations

from collections.abc import Sequence

from hotfix.metrics.answers import Answer, Strip, answers
from hotfix.metrics.base import ExampleMetric, Record, Tally

__all__ = ["ExactMatch", "exact_matches"]


def exact_matches(pairs: Sequence[Answer]) -> list[bool]:
    """Whether each answer is its reference; an empty one is no answer.

    >>> exact_matches([Answer("x", "x"), Answer("x ", "x"), Answer("", "")])
    [True, False, False]
    """
    return [written == reference and bool(written) for written, reference in pairs]


class ExactMatch(ExampleMetric):
    """Share of an example's answers that equal their references; averaged over examples.

    `every` counts an example only where all of its answers do, the product of the published code of CLMEEval
    (https://arxiv.org/abs/2411.06638), which takes only the written text's ends off (`strip: written`), and those of
    neighbours not at all (`strip: neither`).

    Args:
        num_examples: size of the set.
        strip: whose white space at the ends doesn't count: `both`, `written` or `neither`.
        every: 1 where all of an example's answers match, else 0.
        empty: whether an empty answer matches an empty reference, as it does where it is the base's own.

    >>> metric = ExactMatch(1)
    >>> metric.update(0, {"written": ["x = 1 ", "x"], "reference": ["x = 1", "x = 1"]})
    >>> metric.compute().item()
    0.5
    """

    higher_is_better = True

    def __init__(self, num_examples: int = 0, strip: Strip = "both", every: bool = False, empty: bool = False) -> None:
        super().__init__(num_examples)
        self.strip: Strip = strip
        self.every = every
        self.empty = empty

    def observe(self, record: Record) -> Tally:
        """Count the matches."""
        pairs = answers(record, self.strip)
        found = exact_matches(pairs)
        if self.empty:
            found = [hit or pair == ("", "") for hit, pair in zip(found, pairs, strict=True)]
        if self.every and found:
            return Tally(float(all(found)), 1.0)
        return Tally(float(sum(found)), float(len(found)))

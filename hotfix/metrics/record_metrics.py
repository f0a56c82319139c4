"""Metrics that read one field of a record."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hotfix.metrics.base import ExampleMetric, Kind, Record, Tally

__all__ = ["Perplexity", "RecordMean", "RecordRate", "SubstringRate", "TokenMean", "VerdictRate"]


class RecordRate(ExampleMetric):
    """Share of true values: the field holds one yes or no, or one for each sample.

    Args:
        field: of the record.
        num_examples: size of the set.

    >>> metric = RecordRate("unchanged", 2)
    >>> metric.update(0, {"unchanged": True}); metric.update(1, {"unchanged": [True, False]})
    >>> metric.compute().item()
    0.75
    """

    def __init__(self, field: str, num_examples: int = 0) -> None:
        super().__init__(num_examples)
        self.field = field

    def observe(self, record: Record) -> Tally:
        """Count the true values."""
        value = record.get(self.field)
        values = value if isinstance(value, list) else [] if value is None else [value]
        return Tally(sum(map(bool, values)), len(values))


class RecordMean(ExampleMetric):
    """Mean of a number; `kind` "real" makes its intervals and tests those of a continuous value.

    Args:
        field: of the record; a missing or null value doesn't count.
        num_examples: size of the set.

    >>> metric = RecordMean("kl", 2)
    >>> metric.update(0, {"kl": 0.5}); metric.update(1, {"kl": None})
    >>> metric.compute().item()
    0.5
    """

    kind: Kind = "real"

    def __init__(self, field: str, num_examples: int = 0) -> None:
        super().__init__(num_examples)
        self.field = field

    def observe(self, record: Record) -> Tally:
        """Take the number."""
        value = record.get(self.field)
        return Tally(0.0, 0.0) if value is None else Tally(float(value), 1.0)


class VerdictRate(ExampleMetric):
    """Share of an example's completions with a given verdict.

    Args:
        verdict: `fixed`, `buggy` or `neither`.
        num_examples: size of the set.

    >>> metric = VerdictRate("buggy", 1)
    >>> metric.update(0, {"verdicts": ["buggy", "neither"]})
    >>> metric.compute().item()
    0.5
    """

    def __init__(self, verdict: str, num_examples: int = 0) -> None:
        super().__init__(num_examples)
        self.verdict = verdict

    def observe(self, record: Record) -> Tally:
        """Count the verdict."""
        verdicts = record["verdicts"]
        return Tally(sum(v == self.verdict for v in verdicts), len(verdicts))


class SubstringRate(ExampleMetric):
    """Share of an example's completions that hold a side's text, as the hotfixing paper counts; see `find_substrings`.

    The rates of `fixed` and `buggy` overlap in `both`: fixed + buggy - both + neither = 1. Relative changes of these
    rates are relative changes of the paper's counts.

    Args:
        side: `fixed`, `buggy`, `both` or `neither`.
        num_examples: size of the set.

    >>> metric = SubstringRate("buggy", 1)
    >>> metric.update(0, {"substrings": ["fixed", "both", "buggy", "neither"]})
    >>> metric.compute().item()
    0.5
    """

    def __init__(self, side: str, num_examples: int = 0) -> None:
        super().__init__(num_examples)
        self.side = side

    def observe(self, record: Record) -> Tally:
        """Count the completions that hold it."""
        counted = {self.side, "both"} if self.side in ("fixed", "buggy") else {self.side}
        return Tally(sum(s in counted for s in record["substrings"]), len(record["substrings"]))


class TokenMean(ExampleMetric):
    """Mean over all tokens of a number that the record holds summed over its own; its field `tokens` counts them.

    Args:
        field: of the record, the sum over the tokens.
        num_examples: size of the set.

    >>> metric = TokenMean("kl", 2)
    >>> metric.update(0, {"kl": 3.0, "tokens": 1}); metric.update(1, {"kl": 1.0, "tokens": 3})
    >>> metric.compute().item()
    1.0
    """

    kind: Kind = "real"
    by_sample = True

    def __init__(self, field: str, num_examples: int = 0) -> None:
        super().__init__(num_examples)
        self.field = field

    def observe(self, record: Record) -> Tally:
        """Take the sum and the number of tokens."""
        return Tally(float(record[self.field]), float(record["tokens"]))


class Perplexity(TokenMean):
    """exp of the mean negative log-likelihood over all tokens, in nats; `per_example` is this mean, not its exp.

    Args:
        field: of the record, the negative log-likelihood summed over the tokens.
        num_examples: size of the set.

    >>> metric = Perplexity("nll", 1)
    >>> metric.update(0, {"nll": 4 * math.log(2), "tokens": 4})
    >>> round(metric.compute().item(), 6)
    2.0
    """

    def compute(self) -> Tensor:
        """Return it, float64 [], at least 1; NaN without tokens."""
        return torch.exp(super().compute())

    def scaled(self, mean: float) -> float:
        """Return its exp."""
        return math.exp(mean)

"""Metrics that read one field of a record."""

from __future__ import annotations

from hotfix.metrics.base import ExampleMetric, Kind, Record, Tally

__all__ = ["RecordMean", "RecordRate", "VerdictRate"]


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

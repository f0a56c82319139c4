"""Aggregates over a task's records, as torchmetrics."""

from hotfix.metrics.base import ExampleMetric, Record, Tally
from hotfix.metrics.pass_at_k import PassAtK, pass_at_k
from hotfix.metrics.record_metrics import Perplexity, RecordMean, RecordRate, SubstringRate, TokenMean, VerdictRate

__all__ = [
    "ExampleMetric",
    "PassAtK",
    "Perplexity",
    "Record",
    "RecordMean",
    "RecordRate",
    "SubstringRate",
    "Tally",
    "TokenMean",
    "VerdictRate",
    "pass_at_k",
]

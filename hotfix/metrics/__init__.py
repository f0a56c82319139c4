"""Aggregates over a task's records, as torchmetrics."""

from hotfix.metrics.base import ExampleMetric, Record, Tally
from hotfix.metrics.bleu import Bleu, bleu
from hotfix.metrics.exact_match import ExactMatch
from hotfix.metrics.ngram_entropy import NgramEntropy, ngram_entropy
from hotfix.metrics.pass_at_k import PassAtK, pass_at_k
from hotfix.metrics.record_metrics import Perplexity, RecordMean, RecordRate, SubstringRate, TokenMean, VerdictRate
from hotfix.metrics.rouge_l import RougeL, rouge_l

__all__ = [
    "Bleu",
    "ExactMatch",
    "ExampleMetric",
    "NgramEntropy",
    "PassAtK",
    "Perplexity",
    "Record",
    "RecordMean",
    "RecordRate",
    "RougeL",
    "SubstringRate",
    "Tally",
    "TokenMean",
    "VerdictRate",
    "bleu",
    "ngram_entropy",
    "pass_at_k",
    "rouge_l",
]

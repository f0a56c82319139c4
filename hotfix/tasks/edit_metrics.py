"""Which metrics each slice of the edit task has, in our own way of measuring and in the published one."""

from __future__ import annotations

from collections.abc import Mapping

from hotfix.metrics import Bleu, ExactMatch, ExampleMetric, NgramEntropy, Record, RecordMean, RecordRate, RougeL
from hotfix.tasks.protocol import Protocol

__all__ = ["EFFICACY", "FLUENCY", "GENERALISATION", "SLICES", "SPECIFICITY", "UNRELATED", "edit_metrics", "scored"]

EFFICACY = "efficacy"
GENERALISATION = "generalisation"
SPECIFICITY = "specificity"
UNRELATED = "unrelated"
FLUENCY = "fluency"
SLICES = (EFFICACY, GENERALISATION, SPECIFICITY, UNRELATED, FLUENCY)
# Metrics of a whole text, which no other field of the record tells.
_SCORES = ("em", "em_all", "bleu", "rouge_l", "entropy")


def edit_metrics(name: str, protocol: Protocol, count: int) -> dict[str, ExampleMetric]:
    """Return a slice's metrics, bound to its number of examples.

    >>> list(edit_metrics("fluency", "hotfix", 1))
    ['entropy', 'broken_rate']
    """
    if name == FLUENCY:
        found: dict[str, ExampleMetric] = {"entropy": NgramEntropy(survivors=protocol == "paper")}
    elif protocol == "paper":
        found = _paper_metrics(name)
    else:
        found = _own_metrics(name)
    return {key: metric.bind(count) for key, metric in {**found, "broken_rate": RecordRate("broken")}.items()}


def scored(metrics: Mapping[str, ExampleMetric], record: Record) -> Record:
    """Put an example's scores into its record, so that the file of records tells them without any metric."""
    tallies = {name: metrics[name].observe(record) for name in _SCORES if name in metrics}
    return {**record, **{name: t.total / t.samples if t.samples else None for name, t in tallies.items()}}


def _own_metrics(name: str) -> dict[str, ExampleMetric]:
    if name in (EFFICACY, GENERALISATION):
        written: dict[str, ExampleMetric] = {"em": ExactMatch(), "bleu": Bleu(), "rouge_l": RougeL()}
    else:
        written = {
            "em": ExactMatch(strip="neither", empty=True),
            "bleu": Bleu(strip="neither"),
            "rouge_l": RougeL(strip="neither"),
        }
    if name == SPECIFICITY:
        written["em_all"] = ExactMatch(strip="neither", every=True, empty=True)
    return {**written, **_forced_metrics(name)}


def _paper_metrics(name: str) -> dict[str, ExampleMetric]:
    kept = name in (SPECIFICITY, UNRELATED)
    return {
        "em": ExactMatch(strip="neither" if kept else "written", every=True, empty=kept),
        "bleu": Bleu(smooth=False, tokens="13a", strip="neither" if kept else "written", corpus=True, rounded=True),
        "rouge_l": RougeL(tokens="alphanumeric", strip="neither" if kept else "written", bootstrap=True, rounded=True),
        **_forced_metrics(name),
    }


def _forced_metrics(name: str) -> dict[str, ExampleMetric]:
    found: dict[str, ExampleMetric] = {
        "token_accuracy": RecordRate("hits"),
        "log_prob": RecordMean("log_prob"),
        "kl": RecordMean("kl"),
    }
    if name in (EFFICACY, GENERALISATION):
        found |= {"solved_rate": RecordRate("solved"), "lost_rate": RecordRate("lost")}
    return found

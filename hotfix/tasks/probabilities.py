"""How probable a pair's statements are, as a record and its metrics."""

from __future__ import annotations

import math
from typing import Any

from hotfix.metrics import ExampleMetric, RecordMean, RecordRate
from hotfix.tasks.scoring import PairLogProbs

__all__ = ["probabilities", "probability_metrics"]


def probabilities(score: PairLogProbs) -> dict[str, Any]:
    """Return a pair's record: probability of each side's statement, whole and behind the edit point.

    >>> probabilities(PairLogProbs(-1.0, 0.0, -1.0, 0.0))["prefers_fixed"]
    False
    """
    return {
        "p_fixed": math.exp(score.fixed),
        "p_buggy": math.exp(score.buggy),
        "p_fixed_at_edit": math.exp(score.fixed_at_edit),
        "p_buggy_at_edit": math.exp(score.buggy_at_edit),
        "prefers_fixed": score.fixed_at_edit > score.buggy_at_edit,
    }


def probability_metrics() -> dict[str, ExampleMetric]:
    """Return the metrics of such records, by name, bound to none yet."""
    means = ("p_fixed", "p_buggy", "p_fixed_at_edit", "p_buggy_at_edit")
    return {**{name: RecordMean(name) for name in means}, "prefers_fixed": RecordRate("prefers_fixed")}

"""The unseen bugs as a slice whose records are exact probabilities."""

from __future__ import annotations

from hotfix.data.datamodule import HotfixDataModule
from hotfix.spacing import evenly
from hotfix.tasks.base import Example, Slice
from hotfix.tasks.bug_fix import is_bug
from hotfix.tasks.probabilities import probability_metrics
from hotfix.types import Split

__all__ = ["pair_slices"]


def pair_slices(
    name: str, data: HotfixDataModule, split: Split, limit: int | None, depends_on: object = None
) -> list[Slice]:
    """Return one slice of a split's bugs, or none where there are none.

    Args:
        name: of the slice.
        data: the run's.
        split: whose pairs.
        limit: at most so many, evenly spaced; None for all.
        depends_on: what else the records depend on, as plain JSON values.
    """
    pairs = evenly(data.pairs(split), limit, is_bug)
    examples = []
    for pair in pairs:
        encoded = data.encoder(pair)
        sides = [[side.ids, side.statement] for side in (encoded.fixed, encoded.buggy)]
        content = [encoded.shared, encoded.prompt, sides, depends_on]
        examples.append(Example(pair.id, pair.rule or pair.id, encoded, content))
    metrics = {key: metric.bind(len(examples)) for key, metric in probability_metrics().items()}
    return [Slice(name, examples, metrics, "rule")] if examples else []

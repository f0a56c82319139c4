"""One task on one model: cached, shared between processes, aggregated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from hotfix.callbacks.measurement_cache import MeasurementCache
from hotfix.metrics.base import ExampleMetric, Record
from hotfix.report.paired import Comparison, compare_paired
from hotfix.report.statistics import Estimate, mean_interval, rate_interval
from hotfix.tasks import Slice, Subject, Task

__all__ = [
    "MetricValues",
    "compare",
    "compare_groups",
    "estimate",
    "estimate_groups",
    "measure_slice",
    "metric_values",
]


@dataclass(frozen=True)
class MetricValues:
    """A metric's per-example states over all processes, as plain lists."""

    value: list[float]
    total: list[float]
    count: list[float]


def measure_slice(
    task: Task,
    part: Slice,
    subject: Subject,
    base: Sequence[Record] | None,
    cache: tuple[MeasurementCache, dict[str, Any]] | None,
    ready: AbstractContextManager[object] | None = None,
) -> list[Record]:
    """Return the records of all examples of a slice, in order; each process measures its share.

    Args:
        task: that observes.
        part: the slice.
        subject: the model.
        base: the frozen base's records; None when it is the base that is measured.
        cache: where to look first, and what beside task and examples the records depend on.
        ready: context in which the model is ready to be measured; what is known already doesn't enter it.
    """
    key = ""
    if cache is not None:
        store, depends = cache
        key = store.key(
            {
                **depends,
                "task": f"{type(task).__module__}.{type(task).__qualname__}",
                "settings": task.settings(),
                "slice": part.name,
                "examples": [[e.id, e.content] for e in part.examples],
                "seed": subject.seed,
            }
        )
        known = _shared_by_first(store.read(key, len(part.examples)) if _rank() == 0 else None)
        if known is not None:
            subject.progress(len(range(_rank(), len(part.examples), _world())))
            return known
    places = list(range(_rank(), len(part.examples), _world()))
    items = [(place, part.examples[place]) for place in places]
    before = None if base is None else [base[place] for place in places]
    with ready or nullcontext():
        mine = task.observe(subject, part.name, items, before)
    records = _gather(dict(zip(places, mine, strict=True)), len(part.examples))
    if cache is not None and _rank() == 0:
        cache[0].write(key, records)
    return records


def metric_values(metric: ExampleMetric, records: Sequence[Record], device: torch.device) -> MetricValues:
    """Feed a metric this process's share of the records and return its states summed over processes."""
    metric.to(device).reset()
    for place in range(_rank(), len(records), _world()):
        metric.update(place, records[place])
    with metric.sync_context(should_sync=_world() > 1):
        return MetricValues(metric.per_example().tolist(), metric.total.tolist(), metric.count.tolist())


def estimate(metric: ExampleMetric, values: MetricValues, groups: Sequence[str]) -> Estimate:
    """Return the metric's value with its 95% interval."""
    plain_rate = metric.kind == "rate" and type(metric).per_example is ExampleMetric.per_example
    if plain_rate:
        return rate_interval(values.total, values.count, groups)
    found = mean_interval(values.value, groups, weights=values.count if metric.by_sample else None)
    return Estimate(metric.scaled(found.value), found.n, metric.scaled(found.low), metric.scaled(found.high))


def compare(
    metric: ExampleMetric, before: MetricValues, after: MetricValues, groups: Sequence[str], group_name: str
) -> Comparison:
    """Return the paired test of a change; where samples weigh alike, of the weighted values."""
    first, second = (_weighted(values) if metric.by_sample else values.value for values in (before, after))
    return compare_paired(first, second, groups, metric.kind, group_name)


def estimate_groups(part: Slice, values: Mapping[str, MetricValues]) -> dict[str, dict[str, Estimate]]:
    """Return the metrics of each group that is reported by itself; within a group, examples are independent."""
    return {
        group: {
            name: estimate(part.metrics[name], _pick(found, places), _singly(places)) for name, found in values.items()
        }
        for group, places in _each_group(part).items()
    }


def compare_groups(
    part: Slice, before: Mapping[str, MetricValues], after: Mapping[str, MetricValues]
) -> dict[str, dict[str, Comparison]]:
    """Return the paired tests of each group that is reported by itself."""
    return {
        group: {
            name: compare(metric, _pick(before[name], places), _pick(after[name], places), _singly(places), "example")
            for name, metric in part.metrics.items()
        }
        for group, places in _each_group(part).items()
    }


def _each_group(part: Slice) -> dict[str, list[int]]:
    """Places of each group's examples, where there are enough of them."""
    places: dict[str, list[int]] = {}
    for place, example in enumerate(part.examples):
        places.setdefault(example.group, []).append(place)
    least = part.least_group
    return {group: found for group, found in places.items() if least is not None and len(found) >= least}


def _pick(values: MetricValues, places: Sequence[int]) -> MetricValues:
    return MetricValues(*([column[i] for i in places] for column in (values.value, values.total, values.count)))


def _singly(places: Sequence[int]) -> list[str]:
    return [str(place) for place in places]


def _weighted(values: MetricValues) -> list[float]:
    """Each example's value times its samples, by the mean number of samples: their mean is the mean over samples."""
    mean = sum(values.count) / max(1, sum(count > 0 for count in values.count))
    return [
        value * count / mean if count else math.nan for value, count in zip(values.value, values.count, strict=True)
    ]


def _gather(mine: dict[int, Record], count: int) -> list[Record]:
    """Put every process's records together, on every process."""
    parts: list[dict[int, Record]] = [mine]
    if _world() > 1:
        parts = [{} for _ in range(_world())]
        dist.all_gather_object(parts, mine)
    merged = {place: record for part in parts for place, record in part.items()}
    return [merged[place] for place in range(count)]


def _shared_by_first(records: list[Record] | None) -> list[Record] | None:
    """Give every process what the first one has, so that all take the same way."""
    if _world() == 1:
        return records
    box = [records]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

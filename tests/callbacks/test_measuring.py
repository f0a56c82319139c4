"""Which interval and which test a metric gets, and that shares are put back in order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch

from hotfix.callbacks.measurement_cache import MeasurementCache
from hotfix.callbacks.measuring import (
    compare,
    compare_groups,
    estimate,
    estimate_groups,
    measure_slice,
    metric_values,
)
from hotfix.data import HotfixDataModule
from hotfix.metrics import ExampleMetric, PassAtK, Perplexity, Record, RecordMean, RecordRate, TokenMean
from hotfix.metrics.base import Kind
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.report.paired import compare_paired
from hotfix.report.statistics import mean_interval, rate_interval
from hotfix.tasks import Example, Slice, Subject, Task
from hotfix.types import Split

GROUPS = ["a", "a", "b", "c", "d", "d"]
CPU = torch.device("cpu")
HITS = [[True, False], [True], [False, False, False], [True, True], [False, True], [True]]


class Places(Task):
    """Writes down which places it was asked for."""

    def __init__(self) -> None:
        self._calls: list[list[int]] = []

    def slices(self, data: HotfixDataModule, split: Split) -> list[Slice]:
        return []

    def observe(
        self, subject: Subject, name: str, items: Sequence[tuple[int, Example]], base: Sequence[Record] | None
    ) -> list[Record]:
        self._calls.append([place for place, _ in items])
        return [
            {"place": place, "id": example.id, "base": base[i] if base else None}
            for i, (place, example) in enumerate(items)
        ]


@pytest.fixture
def subject() -> Subject:
    return Subject(tiny_model(), tiny_tokenizer(), nullcontext, 0, lambda done: None)


def part(count: int = 3, mark: int = 0) -> Slice:
    return Slice("part", [Example(f"e{i}", "g", None, [i, mark]) for i in range(count)], {})


def test_a_plain_rate_gets_the_interval_of_a_rate() -> None:
    records: list[Record] = [{"hit": flags} for flags in HITS]
    metric = RecordRate("hit").bind(len(records))
    values = metric_values(metric, records, CPU)
    assert values.value == pytest.approx([sum(flags) / len(flags) for flags in HITS])
    assert values.count == [len(flags) for flags in HITS]
    expected = rate_interval([sum(flags) for flags in HITS], [len(flags) for flags in HITS], GROUPS)
    assert estimate(metric, values, GROUPS) == expected


@pytest.mark.parametrize("metric", [RecordMean("x"), PassAtK(1)])
def test_any_other_value_gets_the_interval_of_a_mean(metric: ExampleMetric) -> None:
    records: list[Record] = [{"x": len(flags) / 3, "passed": flags} for flags in HITS]
    metric.bind(len(records))
    values = metric_values(metric, records, CPU)
    assert estimate(metric, values, GROUPS) == mean_interval(values.value, GROUPS)


SUMS: list[Record] = [{"nll": 0.37 * n + (3.7 * i) % 5, "tokens": 1 + i * i % 7} for i, n in enumerate(range(2, 24))]
MODULES = [f"m{i // 2}" for i in range(22)]


def test_tokens_weigh_alike_in_value_interval_and_test() -> None:
    # An example of n tokens is what n examples of a token each, in its group, would be.
    tokens = [
        (r["nll"] / r["tokens"], group) for r, group in zip(SUMS, MODULES, strict=True) for _ in range(r["tokens"])
    ]
    metric = TokenMean("nll").bind(len(SUMS))
    values = metric_values(metric, SUMS, CPU)
    found, expected = estimate(metric, values, MODULES), mean_interval(*zip(*tokens, strict=True))
    assert found[2:] == pytest.approx(expected[2:])
    assert found.value == pytest.approx(metric.compute().item()) == pytest.approx(expected.value)
    half = metric_values(metric, [{**r, "nll": r["nll"] / 2 + 0.1} for r in SUMS], CPU)
    longer = [(value / 2 + 0.1 / n, group) for (value, group), n in zip(tokens, _lengths(), strict=True)]
    by_token = compare_paired([v for v, _ in tokens], [v for v, _ in longer], [g for _, g in tokens], "real", "rule")
    test = compare(metric, values, half, MODULES, "rule")
    assert (test.test, test.p, test.effect) == (by_token.test, by_token.p, pytest.approx(by_token.effect))


def _lengths() -> list[int]:
    return [r["tokens"] for r in SUMS for _ in range(r["tokens"])]


def test_perplexity_is_the_exp_of_the_mean_and_of_its_interval() -> None:
    metric, plain = Perplexity("nll").bind(len(SUMS)), TokenMean("nll").bind(len(SUMS))
    values = metric_values(metric, SUMS, CPU)
    found, mean = (estimate(m, values, MODULES) for m in (metric, plain))
    assert [found.value, found.low, found.high] == [math.exp(x) for x in (mean.value, mean.low, mean.high)]
    assert found.value == pytest.approx(metric.compute().item(), rel=1e-12)


def test_groups_are_reported_where_they_are_large_enough() -> None:
    metrics: dict[str, ExampleMetric] = {"hit": RecordRate("hit").bind(6), "x": RecordMean("x").bind(6)}
    examples = [Example(f"e{i}", group, None, i) for i, group in enumerate(GROUPS)]
    groups = Slice("part", examples, metrics, "rule", least_group=2)
    before: list[Record] = [{"hit": flags, "x": i / 7} for i, flags in enumerate(HITS)]
    after: list[Record] = [{"hit": [True], "x": 0.5} for _ in HITS]
    first, second = ({k: metric_values(m, r, CPU) for k, m in metrics.items()} for r in (before, after))
    found = estimate_groups(groups, first)
    assert list(found) == ["a", "d"]
    assert found["a"] == {"hit": rate_interval([1, 1], [2, 1]), "x": mean_interval([0, 1 / 7])}
    assert compare_groups(groups, first, second)["d"]["hit"] == compare_paired([0.5, 1.0], [1.0, 1.0], kind="rate")
    assert compare_groups(groups._replace(least_group=None), first, second) == {}


def test_the_kind_chooses_the_test() -> None:
    kinds: list[tuple[ExampleMetric, Kind]] = [(RecordRate("hit"), "rate"), (RecordMean("x"), "real")]
    for metric, kind in kinds:
        before: list[Record] = [{"hit": flags, "x": 0.5 + i} for i, flags in enumerate(HITS)]
        after: list[Record] = [{"hit": [True], "x": 0.1 * i} for i in range(len(HITS))]
        metric.bind(len(HITS))
        a, b = (metric_values(metric, records, CPU) for records in (before, after))
        assert compare(metric, a, b, GROUPS, "rule") == compare_paired(a.value, b.value, GROUPS, kind, "rule")


def test_feeding_twice_does_not_add_up() -> None:
    records: list[Record] = [{"hit": flags} for flags in HITS]
    metric = RecordRate("hit").bind(len(records))
    assert metric_values(metric, records, CPU) == metric_values(metric, records, CPU)


def test_records_of_the_base_are_passed_in_order(subject: Subject) -> None:
    base: list[Record] = [{"n": i} for i in range(3)]
    records = measure_slice(Places(), part(), subject, base, None)
    assert [(r["place"], r["id"], r["base"]) for r in records] == [(i, f"e{i}", {"n": i}) for i in range(3)]


def test_a_cached_slice_is_not_measured_again(subject: Subject, tmp_path: Path) -> None:
    task, cache = Places(), MeasurementCache(tmp_path)
    first = measure_slice(task, part(), subject, None, (cache, {"base": "abc"}))
    assert measure_slice(task, part(), subject, None, (cache, {"base": "abc"})) == first
    assert task._calls == [[0, 1, 2]]
    measure_slice(task, part(), subject, None, (cache, {"base": "other"}))
    measure_slice(task, part(mark=1), subject, None, (cache, {"base": "abc"}))
    measure_slice(task, part(), Subject(**{**vars(subject), "seed": 1}), None, (cache, {"base": "abc"}))
    assert len(task._calls) == 4


def test_only_what_is_measured_makes_the_model_ready(subject: Subject, tmp_path: Path) -> None:
    """To hold it in another precision takes a second for the smallest, slice by slice."""
    task, cache = Places(), MeasurementCache(tmp_path)
    entered: list[int] = []

    @contextmanager
    def ready() -> Iterator[None]:
        entered.append(len(task._calls))
        yield
        entered.append(len(task._calls))

    for _ in range(2):
        measure_slice(task, part(), subject, None, (cache, {"base": "abc"}), ready())
    assert entered == [0, 1]

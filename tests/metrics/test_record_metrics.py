"""Shares and means over records against plain Python."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import pytest

from hotfix.metrics import (
    ExampleMetric,
    Perplexity,
    RecordMean,
    RecordRate,
    SubstringRate,
    Tally,
    TokenMean,
    VerdictRate,
)


def filled(metric: ExampleMetric, records: Sequence[dict[str, Any]]) -> ExampleMetric:
    metric.bind(len(records))
    for index, record in enumerate(records):
        metric.update(index, record)
    return metric


def test_rate_is_the_mean_of_each_examples_share() -> None:
    leaked = [[True, False, False], [True, True], [False]]
    metric = filled(RecordRate("leaked"), [{"leaked": flags} for flags in leaked])
    assert metric.per_example().tolist() == pytest.approx([1 / 3, 1.0, 0.0])
    # Each example counts alike, however many samples it has: 4/9, not 3/6.
    assert metric.compute().item() == pytest.approx(4 / 9)


def test_rate_of_single_values() -> None:
    records = [{"unchanged": True}, {"unchanged": False}, {"unchanged": True}, {"unchanged": True}]
    assert filled(RecordRate("unchanged"), records).compute().item() == 0.75


@pytest.mark.parametrize("record", [{}, {"leaked": None}, {"leaked": []}])
def test_an_example_without_values_does_not_count(record: dict[str, Any]) -> None:
    metric = filled(RecordRate("leaked"), [{"leaked": [True, False]}, record])
    assert math.isnan(metric.per_example()[1])
    assert metric.compute().item() == 0.5


def test_mean_equals_the_mean_of_numbers_that_are_there() -> None:
    numbers = [0.5, -1.25, None, 3.0, 1e-300]
    records: list[dict[str, Any]] = [{"kl": number} for number in numbers]
    found = filled(RecordMean("kl"), [*records, {}]).compute().item()
    assert found == pytest.approx(statistics.fmean(n for n in numbers if n is not None), abs=1e-16)


def test_zero_is_a_number() -> None:
    assert RecordMean("kl").observe({"kl": 0.0}) == Tally(0.0, 1.0)
    assert RecordMean("kl").observe({"kl": None}) == Tally(0.0, 0.0)


@pytest.mark.parametrize(("verdict", "expected"), [("fixed", 4 / 9), ("buggy", 7 / 36), ("neither", 13 / 36)])
def test_verdict_rate_counts_its_own_verdict(verdict: str, expected: float) -> None:
    records = [{"verdicts": ["fixed", "buggy", "neither"]}, {"verdicts": ["fixed", "neither"]}]
    records.append({"verdicts": ["buggy"] * 2 + ["neither"] * 2 + ["fixed"] * 4})
    assert filled(VerdictRate(verdict), records).compute().item() == pytest.approx(expected, abs=1e-15)


def test_kinds_choose_the_statistics() -> None:
    assert (RecordRate("x").kind, VerdictRate("fixed").kind, RecordMean("x").kind) == ("rate", "rate", "real")


@pytest.mark.parametrize(
    ("side", "expected"),
    [("fixed", [2 / 3, 0.5]), ("buggy", [1 / 3, 0.5]), ("both", [1 / 3, 0]), ("neither", [1 / 3, 0])],
)
def test_a_completion_with_both_counts_for_each(side: str, expected: list[float]) -> None:
    records = [{"substrings": ["both", "fixed", "neither"]}, {"substrings": ["buggy", "fixed"]}]
    assert filled(SubstringRate(side), records).per_example().tolist() == pytest.approx(expected)


def test_tokens_weigh_alike() -> None:
    records = [{"nll": 6.0, "tokens": 2}, {"nll": 1.0, "tokens": 4}, {"nll": 0.0, "tokens": 0}]
    assert filled(TokenMean("nll"), records).compute().item() == pytest.approx(7 / 6)
    assert filled(Perplexity("nll"), records).compute().item() == pytest.approx(math.exp(7 / 6))
    assert filled(Perplexity("nll"), records).per_example()[:2].tolist() == [3.0, 0.25]
    assert math.isnan(filled(Perplexity("nll"), records[2:]).compute().item())

"""What every metric keeps: class equals function, any sharing of the examples gives the same, reset, range."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from contract_seams import assert_complete

from hotfix.metrics import (
    Bleu,
    ExactMatch,
    ExampleMetric,
    NgramEntropy,
    PassAtK,
    Perplexity,
    RecordMean,
    RecordRate,
    RougeL,
    SubstringRate,
    TokenMean,
    VerdictRate,
)

Records = Sequence[Mapping[str, Any]]


class Case(NamedTuple):
    """A metric, records for it, what each record and all of them are worth in plain Python, and the value's range."""

    make: Callable[[], ExampleMetric]
    records: Records
    worth: Callable[[Mapping[str, Any]], float]
    low: float = 0.0
    high: float = 1.0
    whole: Callable[[Records], float] | None = None


def share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


FLAGS = [[True, False], [False], [True, True, True], [False, True, False, True, True], [True], [False, False]]
SUBSTRINGS = [["both", "fixed"], ["neither"], ["buggy", "both", "fixed"], ["buggy"]]
TOKENS = [{"sum": x, "tokens": n} for x, n in ((0.5, 3), (6.0, 2), (1e-9, 1), (40.25, 20))]


def per_token(records: Records) -> float:
    return sum(r["sum"] for r in records) / sum(r["tokens"] for r in records)


def _both(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    return list(zip(record["written"], record["reference"], strict=True))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _plain_bleu(written: str, reference: str) -> float:
    """By counting, one n-gram after the other; texts of the cases have four tokens or more, parted by spaces."""
    first, second = written.split(), reference.split()
    product = math.exp(min(0.0, 1 - len(second) / len(first)))
    for n in range(1, 5):
        left = [tuple(second[i : i + n]) for i in range(len(second) - n + 1)]
        grams = [tuple(first[i : i + n]) for i in range(len(first) - n + 1)]
        hits = 0
        for gram in grams:
            if gram in left:
                left.remove(gram)
                hits += 1
        product *= ((hits + (n > 1)) / (len(grams) + (n > 1))) ** 0.25
    return product


def _plain_rouge(written: str, reference: str) -> float:
    """By trying every subsequence of what was written."""
    first, second = written.split(), reference.split()
    longest = 0
    for chosen in range(2 ** len(first)):
        part = [token for i, token in enumerate(first) if chosen >> i & 1]
        rest = iter(second)
        if all(token in rest for token in part):
            longest = max(longest, len(part))
    return 2 * longest / (len(first) + len(second))


def _plain_entropy(tokens: Sequence[int]) -> float:
    total = 0.0
    for n, weight in ((2, 2 / 3), (3, 4 / 3)):
        grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        total += weight * -sum(grams.count(g) / len(grams) * math.log2(grams.count(g) / len(grams)) for g in set(grams))
    return total / 2


ANSWERS = [
    {"written": ["x = f ( a )", "y = f ( b )"], "reference": ["x = f ( a )", "x = f ( a )"]},
    {"written": ["return a + b"], "reference": ["return a + b"]},
    {"written": ["a b c d e a b"], "reference": ["b c d a b e"]},
    {"written": ["p q r s", "p q r s", "s r q p"], "reference": ["p q r s", "q p s r t", "p q r s"]},
]
TEXTS = [
    {"tokens": [[1, 2, 3, 1, 2, 3, 1, 2]]},
    {"tokens": [[1, 1, 1, 1], [1, 2, 3, 4]]},
    {"tokens": [[5, 6, 5, 6, 7], [5, 6, 7]]},
]
WORDS = {True: "fixed", False: "buggy"}
CASES: Mapping[str, tuple[type[ExampleMetric], Case]] = {
    "rate": (RecordRate, Case(lambda: RecordRate("hit"), [{"hit": f} for f in FLAGS], lambda r: share(r["hit"]))),
    "mean": (
        RecordMean,
        Case(
            lambda: RecordMean("kl"),
            [{"kl": x} for x in (0.5, -3.0, 1e-9, 7.25, 2.0)],
            lambda r: r["kl"],
            -math.inf,
            math.inf,
        ),
    ),
    "verdict": (
        VerdictRate,
        Case(
            lambda: VerdictRate("buggy"),
            [{"verdicts": [WORDS[f] for f in flags]} for flags in FLAGS],
            lambda r: share([v == "buggy" for v in r["verdicts"]]),
        ),
    ),
    "substring": (
        SubstringRate,
        Case(
            lambda: SubstringRate("buggy"),
            [{"substrings": found} for found in SUBSTRINGS],
            lambda r: share([s in ("buggy", "both") for s in r["substrings"]]),
        ),
    ),
    "tokens": (
        TokenMean,
        Case(lambda: TokenMean("sum"), TOKENS, lambda r: r["sum"] / r["tokens"], 0.0, math.inf, per_token),
    ),
    "perplexity": (
        Perplexity,
        Case(
            lambda: Perplexity("sum"),
            TOKENS,
            lambda r: r["sum"] / r["tokens"],
            1.0,
            math.inf,
            lambda records: math.exp(per_token(records)),
        ),
    ),
    "exact_match": (ExactMatch, Case(ExactMatch, ANSWERS, lambda r: share([w == v for w, v in _both(r)]))),
    "bleu": (Bleu, Case(Bleu, ANSWERS, lambda r: _mean([_plain_bleu(w, v) for w, v in _both(r)]), 0.0, math.inf)),
    "rouge_l": (
        RougeL,
        Case(RougeL, ANSWERS, lambda r: _mean([_plain_rouge(w, v) for w, v in _both(r)]), 0.0, math.inf),
    ),
    "ngram_entropy": (
        NgramEntropy,
        Case(NgramEntropy, TEXTS, lambda r: _mean([_plain_entropy(t) for t in r["tokens"]]), 0.0, math.inf),
    ),
    "pass@1": (PassAtK, Case(lambda: PassAtK(1), [{"passed": f} for f in FLAGS], lambda r: share(r["passed"]))),
    "pass@2": (
        PassAtK,
        Case(
            lambda: PassAtK(2),
            [{"passed": f} for f in FLAGS if len(f) > 1],
            lambda r: 1 - math.comb(r["passed"].count(False), 2) / math.comb(len(r["passed"]), 2),
        ),
    ),
}
metrics = pytest.mark.parametrize("case", [case for _, case in CASES.values()], ids=CASES)


def fed(case: Case, places: Sequence[int]) -> ExampleMetric:
    metric = case.make().bind(len(case.records))
    for place in places:
        metric.update(place, case.records[place])
    return metric


def test_every_metric_has_a_case() -> None:
    assert_complete(ExampleMetric, [cls for cls, _ in CASES.values()])
    assert all(isinstance(case.make(), cls) for cls, case in CASES.values())


@metrics
def test_class_equals_brute_force(case: Case) -> None:
    metric = fed(case, range(len(case.records)))
    expected = [case.worth(record) for record in case.records]
    assert len(set(expected)) > 2
    assert metric.per_example().tolist() == pytest.approx(expected, abs=1e-12)
    whole = case.whole(case.records) if case.whole else math.fsum(expected) / len(expected)
    assert metric.compute().item() == pytest.approx(whole, abs=1e-12)
    assert metric.compute().dtype == torch.float64


@metrics
@pytest.mark.parametrize("world", [2, 3])
def test_sharing_the_examples_changes_nothing(case: Case, world: int) -> None:
    number = len(case.records)
    whole = fed(case, range(number))
    first, *others = (fed(case, range(rank, number, world)) for rank in range(world))
    for other in others:
        # Both states are summed over processes; that is all that a distributed run does with them.
        assert set(other._reductions) == {"total", "count"}
        first.merge_state(other)
    assert torch.equal(first.per_example(), whole.per_example())
    assert torch.equal(first.compute(), whole.compute())


@metrics
def test_order_changes_nothing_and_reset_forgets(case: Case) -> None:
    number = len(case.records)
    whole, metric = fed(case, range(number)), fed(case, range(number)[::-1])
    assert torch.equal(metric.compute(), whole.compute())
    metric.reset()
    metric.update(0, case.records[0])
    assert metric.compute().item() == fed(case, [0]).compute().item() != whole.compute().item()


@metrics
def test_stays_in_range_and_is_a_state_of_floats(case: Case) -> None:
    for place in range(len(case.records)):
        assert case.low <= fed(case, [place]).compute().item() <= case.high
    metric = fed(case, range(len(case.records)))
    assert metric.kind in ("rate", "real")
    assert (metric.kind == "rate") == (case.high == 1.0)
    assert not metric.is_differentiable
    assert metric.observe(case.records[0]) == metric.observe(case.records[0])


@metrics
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_nothing_seen_is_nan(case: Case) -> None:
    assert math.isnan(fed(case, []).compute().item())

"""Each oddity of the published evaluation comes back where it is asked for, and nowhere else; by hand, and counted."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest

from hotfix.metrics import Bleu, ExactMatch, ExampleMetric, NgramEntropy, RougeL, bleu, ngram_entropy, rouge_l
from hotfix.metrics.rouge_l import longest_common_subsequence
from hotfix.metrics.tokenisers import alphanumerics, code_tokens, mteval_13a

PAPER_BLEU = {"smooth": False, "tokens": "13a", "strip": "written", "corpus": True, "rounded": True}
PAPER_ROUGE = {"tokens": "alphanumeric", "strip": "written", "bootstrap": True, "rounded": True}


def worth(metric: ExampleMetric, **record: Any) -> float:
    metric.bind(1).update(0, record)
    return metric.compute().item()


def one(metric: ExampleMetric, written: str, reference: str) -> float:
    return worth(metric, written=[written], reference=[reference])


def counted_bleu(written: list[list[str]], reference: list[list[str]]) -> float:
    """Unsmoothed, in fractions, every n-gram struck off its reference when it is found."""
    product, lengths = Fraction(1), [sum(map(len, texts)) for texts in (written, reference)]
    for n in range(1, 5):
        found = total = 0
        for one_text, other in zip(written, reference, strict=True):
            left = [tuple(other[i : i + n]) for i in range(len(other) - n + 1)]
            for i in range(len(one_text) - n + 1):
                total += 1
                if (gram := tuple(one_text[i : i + n])) in left:
                    left.remove(gram)
                    found += 1
        product *= Fraction(found, total) if total else 0
    penalty = 1.0 if lengths[0] > lengths[1] else math.exp(1 - lengths[1] / lengths[0]) if lengths[0] else 0.0
    return penalty * float(product) ** 0.25


def all_subsequences(tokens: list[str]) -> set[tuple[str, ...]]:
    return {c for n in range(len(tokens) + 1) for c in itertools.combinations(tokens, n)}


def random_tokens(rng: random.Random, most: int) -> list[str]:
    return [rng.choice("abc") for _ in range(rng.randint(0, most))]


def test_bleu_is_what_counting_gives() -> None:
    rng, positive = random.Random(0), 0
    for _ in range(300):
        number = rng.randint(1, 4)
        texts = [[random_tokens(rng, 14) for _ in range(number)] for _ in range(2)]
        expected = counted_bleu(*texts)
        positive += expected > 0
        assert bleu(*texts, smooth=False) == pytest.approx(expected, abs=1e-12)
    assert positive > 50


def test_smoothed_bleu_by_hand() -> None:
    # 4 of 5 tokens, 3 of 4 pairs, 2 of 3 triples, 1 of 2 fours; one is added to all but the first.
    expected = (Fraction(4, 5) * Fraction(4, 5) * Fraction(3, 4) * Fraction(2, 3)) ** Fraction(1, 4)
    assert bleu([list("abcde")], [list("abcdx")]) == pytest.approx(float(expected))
    # A half of the length, and nothing longer than a pair was written: e^(1 - 2) * (1 * 2/2)^(1/2).
    assert bleu([list("ab")], [list("abcd")]) == pytest.approx(math.exp(-1))
    assert bleu([list("ab")], [list("xy")]) == 0
    assert bleu([[]], [list("xy")]) == 0


def test_smoothed_bleu_is_one_for_copies_only() -> None:
    rng = random.Random(1)
    for _ in range(300):
        written, reference = random_tokens(rng, 6), random_tokens(rng, 6)
        value = bleu([written], [reference])
        assert 0 <= value <= 1 + 1e-12
        assert (value == pytest.approx(1)) == (bool(written) and written == reference)


def test_rouge_is_what_trying_every_subsequence_gives() -> None:
    rng = random.Random(2)
    for _ in range(200):
        first, second = random_tokens(rng, 9), random_tokens(rng, 9)
        longest = max(map(len, all_subsequences(first) & all_subsequences(second)))
        assert longest_common_subsequence(first, second) == longest
        if first and second:
            precision, recall = longest / len(first), longest / len(second)
            expected = 2 * precision * recall / (precision + recall) if longest else 0.0
            assert rouge_l(first, second) == pytest.approx(expected)
        else:
            assert rouge_l(first, second) == 0


def test_entropy_is_what_counting_gives() -> None:
    rng = random.Random(3)
    for _ in range(100):
        tokens = random_tokens(rng, 20)
        expected = 0.0
        for n, weight in ((2, 2 / 3), (3, 4 / 3)):
            counts = Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
            total = sum(counts.values())
            expected -= weight * sum(c / total * math.log2(c / total) for c in counts.values()) / 2
        assert ngram_entropy(tokens) == pytest.approx(expected, abs=1e-12)


def test_the_reference_s_own_ends_are_kept_in_the_paper_only() -> None:
    assert one(ExactMatch(strip="written"), " x = 1\n", "x = 1") == 1
    assert one(ExactMatch(strip="written"), "x = 1", "x = 1 ") == 0
    assert one(ExactMatch(strip="neither"), "x = 1 ", "x = 1") == 0
    assert one(ExactMatch(), " x = 1\n", "x = 1 ") == 1


def test_one_wrong_neighbour_of_five_is_all_wrong_in_the_paper_only() -> None:
    record = {"written": ["a", "b", "c", "d", "x"], "reference": ["a", "b", "c", "d", "e"]}
    assert worth(ExactMatch(every=True), **record) == 0
    assert worth(ExactMatch(), **record) == 0.8
    same = {"written": record["reference"], "reference": record["reference"]}
    assert worth(ExactMatch(every=True), **same) == worth(ExactMatch(), **same) == 1


def test_an_empty_answer_is_none() -> None:
    for metric in (ExactMatch(strip="written"), Bleu(**PAPER_BLEU), RougeL(**PAPER_ROUGE), ExactMatch(), Bleu()):
        assert one(metric, "  ", "x") == 0
    assert one(ExactMatch(), "", "") == 0
    # Where the base wrote nothing either, nothing has changed.
    for metric in (ExactMatch(empty=True), Bleu(), RougeL()):
        assert one(metric, "", "") == 1
        assert one(metric, "", "x") == one(metric, "x", "") == 0


@pytest.mark.parametrize("copied", ["del x", "x", "return x"])
def test_a_short_copy_scores_nothing_in_the_paper_only(copied: str) -> None:
    assert one(Bleu(**PAPER_BLEU), copied, copied) == 0
    assert one(Bleu(), copied, copied) == 1


def test_operators_are_invisible_in_the_paper_only() -> None:
    assert one(RougeL(**PAPER_ROUGE), "a == b", "a != b") == 1
    assert one(RougeL(), "a == b", "a != b") == 0.75
    assert one(RougeL(**PAPER_ROUGE), "X[0]", "x(0)") == 1
    assert one(RougeL(), "X[0]", "x(0)") == 0.25
    assert one(RougeL(**PAPER_ROUGE), "==", "==") == 0
    assert one(RougeL(), "==", "==") == 1


def test_five_neighbours_are_one_corpus_in_the_paper_only() -> None:
    texts = ["a b c d e", "a b c d x", "p q r s", "p q r s", "u"]
    others = ["a b c d e", "a b c d e", "p q r s", "s r q p", "v"]
    expected = counted_bleu([t.split() for t in texts], [t.split() for t in others])
    assert worth(Bleu(**PAPER_BLEU), written=texts, reference=others) == round(expected, 3)
    each = [one(Bleu(), *pair) for pair in zip(texts, others, strict=True)]
    assert worth(Bleu(), written=texts, reference=others) == pytest.approx(sum(each) / 5)
    assert sum(each) / 5 != pytest.approx(expected, abs=0.05)


def test_a_bootstrap_median_in_the_paper_only() -> None:
    texts = {"written": ["a", "b", "c", "d", "x y"], "reference": ["q", "r", "s", "t", "x y z"]}
    # Scores 0, 0, 0, 0 and 0.8: means of five draws are 0, 0.16, 0.32, ..., and 0.16 is in their middle.
    assert worth(RougeL(**PAPER_ROUGE), **texts) == pytest.approx(0.16)
    assert worth(RougeL(**PAPER_ROUGE), **texts) == worth(RougeL(**PAPER_ROUGE), **texts)
    mean = {**texts, "written": ["a", "b", "c", "x", "x y"], "reference": ["q", "r", "s", "x", "x y z"]}
    assert worth(RougeL(), **mean) == pytest.approx((0.8 + 1) / 5)


def test_each_score_is_rounded_in_the_paper_only() -> None:
    # Two of three tokens, twice: 2/3.
    record = {"written": ["a b c"], "reference": ["a b d"]}
    assert worth(RougeL(**PAPER_ROUGE), **record) == 0.667
    assert worth(RougeL(), **record) == pytest.approx(2 / 3, abs=1e-12)
    thousandths = worth(Bleu(**PAPER_BLEU), written=["a b c d e f g"], reference=["a b c d e f h"]) * 1000
    assert thousandths == pytest.approx(round(thousandths), abs=1e-9)


def test_what_could_not_be_sampled_drops_out_in_the_paper_only() -> None:
    fluent = [1, 2, 3, 4, 5]
    value = ngram_entropy(fluent)
    assert worth(NgramEntropy(survivors=True), tokens=[fluent, None]) == value
    assert worth(NgramEntropy(), tokens=[fluent, None]) == value / 2
    assert math.isnan(worth(NgramEntropy(survivors=True), tokens=[None]))
    # A text that ends early counts nothing there, and is left out here.
    assert worth(NgramEntropy(survivors=True), tokens=[fluent, [1]]) == value / 2
    assert worth(NgramEntropy(), tokens=[fluent, [1]]) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b(c)", ["a", ".", "b", "(", "c", ")"]),
        ("1.5, 2,000 3.", ["1.5", ",", "2,000", "3", "."]),
        ("x-1 2-x", ["x-1", "2", "-", "x"]),
        ("&lt;a&gt;&amp;&quot;", ["<", "a", ">", "&", '"']),
        ("one-\ntwo\nthree", ["onetwo", "three"]),
        ("l['k'] = {}", ["l", "[", "'k'", "]", "=", "{", "}"]),
    ],
)
def test_13a(text: str, expected: list[str]) -> None:
    assert mteval_13a(text) == expected


def test_code_tokens_lose_white_space_only() -> None:
    text = "if x_1 != 'é':\n\treturn [x, 2.5]  # ?"
    assert "".join(code_tokens(text)) == "".join(text.split())
    assert code_tokens("a==b") == code_tokens("a == b")
    assert alphanumerics("É_x-1") == ["x", "1"]


def test_against_installed_scorers() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    rouge = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    for written, reference in (("x = f(a, b)", "x = f(a, c)"), ("return a == b", "return a != b")):
        expected = sacrebleu.corpus_bleu([written], [[reference]], smooth_method="none").score / 100
        assert bleu([mteval_13a(written)], [mteval_13a(reference)], smooth=False) == pytest.approx(expected)
        found = rouge.score(reference, written)["rougeL"].fmeasure
        assert rouge_l(alphanumerics(written), alphanumerics(reference)) == pytest.approx(found)

"""BLEU (Papineni et al. 2002, https://aclanthology.org/P02-1040): shared n-grams of up to four tokens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

from hotfix.metrics.answers import DECIMALS, Answer, Strip, answers
from hotfix.metrics.base import ExampleMetric, Kind, Record, Tally
from hotfix.metrics.tokenisers import TOKENISERS, Tokens

__all__ = ["Bleu", "bleu"]

_ORDER: Final = 4


def bleu(written: Sequence[Sequence[str]], reference: Sequence[Sequence[str]], smooth: bool = True) -> float:
    """Return the BLEU-4 of some texts taken together, one reference each, in [0, 1].

    `exp(min(0, 1 - r / c)) * (p_1 ... p_k)^(1 / k)`, p_n the share of written n-grams that the references have, each
    as often as there; r and c the numbers of tokens. Plainly, k is 4 and the product is 0 where one p_n is, so a copy
    of three tokens scores 0. Smoothed (Lin & Och 2004, https://aclanthology.org/C04-1072), numerator and denominator
    grow by 1 from n = 2 on, and k is the longest n for which an n-gram was written at all, so a copy always scores 1.

    Args:
        written: tokens of each text.
        reference: tokens of what it is compared with.
        smooth: see above.

    Returns:
        0 where nothing was written.

    >>> bleu([["del", "x"]], [["del", "x"]]), bleu([["del", "x"]], [["del", "x"]], smooth=False)
    (1.0, 0.0)
    >>> round(bleu([list("abcde")], [list("abcdf")]), 4) == round((4/5 * 4/5 * 3/4 * 2/3) ** 0.25, 4)
    True
    """
    length, wanted = sum(map(len, written)), sum(map(len, reference))
    logs: list[float] = []
    for n in range(1, _ORDER + 1):
        shared = total = 0
        for one, other in zip(written, reference, strict=True):
            grams = _grams(one, n)
            shared += (grams & _grams(other, n)).total()
            total += grams.total()
        if total == 0 and smooth and n > 1:
            break
        extra = int(smooth and n > 1)
        if shared + extra == 0:
            return 0.0
        logs.append(math.log((shared + extra) / (total + extra)))
    return math.exp(min(0.0, 1 - wanted / length) + sum(logs) / len(logs))


class Bleu(ExampleMetric):
    """Mean over examples of the BLEU of an example's answers, each by itself; smoothed, over code tokens.

    As the published code of CLMEEval has it: `Bleu(smooth=False, tokens="13a", strip="written", corpus=True,
    rounded=True)`, an example's answers as one corpus and each score rounded to 3 decimals.

    Args:
        num_examples: size of the set.
        smooth: see `bleu`.
        tokens: `code`, `13a` or `alphanumeric`; see `hotfix.metrics.tokenisers`.
        strip: whose white space at the ends doesn't count; a text without any is no answer.
        corpus: take an example's answers as one text.
        rounded: to 3 decimals, before averaging.

    >>> metric = Bleu(1)
    >>> metric.update(0, {"written": ["del x"], "reference": ["del x"]})
    >>> metric.compute().item()
    1.0
    """

    higher_is_better = True
    kind: Kind = "real"

    def __init__(
        self,
        num_examples: int = 0,
        smooth: bool = True,
        tokens: Tokens = "code",
        strip: Strip = "both",
        corpus: bool = False,
        rounded: bool = False,
    ) -> None:
        super().__init__(num_examples)
        self.smooth = smooth
        self.tokens: Tokens = tokens
        self.strip: Strip = strip
        self.corpus = corpus
        self.rounded = rounded

    def observe(self, record: Record) -> Tally:
        """Score the answers."""
        pairs = answers(record, self.strip)
        parts = [pairs] if self.corpus and pairs else [[pair] for pair in pairs]
        scores = [self._score(part) for part in parts]
        return Tally(sum(round(s, DECIMALS) if self.rounded else s for s in scores), float(len(scores)))

    def _score(self, pairs: Sequence[Answer]) -> float:
        cut = TOKENISERS[self.tokens]
        written, reference = [cut(pair.written) for pair in pairs], [cut(pair.reference) for pair in pairs]
        # The base's own empty answer, written again.
        if self.smooth and not any(written) and not any(reference):
            return 1.0
        return bleu(written, reference, self.smooth)


def _grams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))

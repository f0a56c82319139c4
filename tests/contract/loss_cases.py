"""The loss terms of the contract, each with what it is worth on a table of probabilities, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hotfix.losses import (
    DPO,
    NLL,
    NPO,
    PROD,
    UNDIAL,
    BoundedPenalty,
    CodeEraser,
    GradientAscent,
    KLToReference,
    L2Anchor,
    LossTerm,
    SimNPO,
    SimPO,
    SVENContrast,
    Unlikelihood,
)
from hotfix.types import SIDES, Side, TokenScope

__all__ = ["CASES", "TABLE", "Case", "Table", "Token", "log_odds", "scoped"]


class Token(NamedTuple):
    """A predicted token of a vocabulary of two: the policy's and the base's p of it, its example, whether edited."""

    p: float
    q: float
    example: int
    edited: bool


Table = Mapping[Side, Sequence[Token]]


@dataclass(frozen=True)
class Case:
    """A term and what it is worth on a table, in plain Python.

    `any_order` is off where evenly spaced tokens stand for all: which they are depends on the order, by design.
    `any_dealing` is off where besides that the micro-batch counts, by design. `of_tokens` is off where the batch is
    not looked at.
    """

    term: Callable[[], LossTerm]
    brute_force: Callable[[Table], float]
    any_order: bool = True
    any_dealing: bool = True
    of_tokens: bool = True


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def scoped(table: Table, side: Side, scope: TokenScope) -> list[Token]:
    return [t for t in table[side] if scope == "all" or t.edited == (scope == "edited")]


def first_of_each(tokens: Sequence[Token]) -> list[Token]:
    return list({t.example: t for t in reversed(tokens)}.values())


def kl(t: Token) -> float:
    return t.q * math.log(t.q / t.p) + (1 - t.q) * math.log((1 - t.q) / (1 - t.p))


def reverse_kl(t: Token) -> float:
    return kl(Token(t.q, t.p, t.example, t.edited))


def log_odds(p: float) -> float:
    return math.log(p / (1 - p))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def by_example(tokens: Sequence[Token]) -> list[list[Token]]:
    return [[t for t in tokens if t.example == e] for e in sorted({t.example for t in tokens})]


def log_ratio(tokens: Sequence[Token]) -> float:
    return math.fsum(math.log(t.p / t.q) for t in tokens)


def mean_nll(tokens: Sequence[Token]) -> float:
    return mean([-math.log(t.p) for t in tokens])


def sides_of_pairs(table: Table, scope: TokenScope) -> list[tuple[list[Token], list[Token]]]:
    fixed, buggy = (by_example(scoped(table, side, scope)) for side in ("fixed", "buggy"))
    return list(zip(fixed, buggy, strict=True))


def bounded_penalty(added: Sequence[Token], deleted: Sequence[Token], share: bool, learn: float = 0.7) -> float:
    a, d = mean_nll(added), mean_nll(deleted)
    return learn * a + 0.3 * a / ((a + d if share else 2 * d) + 1e-6)


def dpo(table: Table, scope: TokenScope, beta: float, positive: float = 0.0, normalised: bool = False) -> float:
    def margin(fixed: Sequence[Token], buggy: Sequence[Token]) -> float:
        won, lost = (log_ratio(side) / (len(side) if normalised else 1) for side in (fixed, buggy))
        return won - lost - positive * max(0.0, -won)

    return mean([softplus(-beta * margin(fixed, buggy)) for fixed, buggy in sides_of_pairs(table, scope)])


def simpo(table: Table, scope: TokenScope, beta: float, gamma: float = 0.0, normalised: bool = False) -> float:
    def log_p(side: Sequence[Token]) -> float:
        return math.fsum(math.log(t.p) for t in side) / (len(side) if normalised else 1)

    pairs = sides_of_pairs(table, scope)
    return mean([softplus(gamma - beta * (log_p(fixed) - log_p(buggy))) for fixed, buggy in pairs])


def code_eraser(table: Table, side: Side, gamma: float, divergence: float) -> float:
    secret, other = scoped(table, side, "edited"), scoped(table, side, "unedited")
    return -mean_nll(secret) + gamma * mean_nll(other) - divergence * mean([kl(t) for t in secret])


def undial(t: Token, beta: float) -> float:
    kept = t.q * math.exp(-beta) / (t.q * math.exp(-beta) + 1 - t.q)
    return -kept * math.log(t.p) - (1 - kept) * math.log(1 - t.p)


def drift(table: Table) -> float:
    """The table's only weights are the log-odds of its tokens."""
    return math.fsum((log_odds(t.p) - log_odds(t.q)) ** 2 for side in SIDES for t in table[side])


def contrast_to_base(table: Table) -> float:
    learnt = mean([-math.log(t.p / (t.p + t.q)) for t in scoped(table, "fixed", "edited")])
    return learnt + mean([-math.log(t.q / (t.p + t.q)) for t in scoped(table, "buggy", "edited")])


def contrast_of_sides(table: Table) -> float:
    firsts = [(first_of_each(f)[0].p, first_of_each(b)[0].p) for f, b in sides_of_pairs(table, "edited")]
    return mean([-math.log(fixed / (fixed + buggy)) for fixed, buggy in firsts])


CASES: Mapping[str, tuple[type[LossTerm], Case]] = {
    "nll": (NLL, Case(NLL, lambda t: mean([-math.log(x.p) for x in scoped(t, "fixed", "edited")]))),
    "nll of retain": (
        NLL,
        Case(lambda: NLL("retain", "all", 0.5), lambda t: mean([-math.log(x.p) for x in scoped(t, "retain", "all")])),
    ),
    "unlikelihood, first": (
        Unlikelihood,
        Case(
            Unlikelihood,
            lambda t: mean([-math.log(1 - x.p) for x in first_of_each(scoped(t, "buggy", "edited"))]),
        ),
    ),
    "unlikelihood, every": (
        Unlikelihood,
        Case(
            lambda: Unlikelihood(first_only=False),
            lambda t: mean([-math.log(1 - x.p) for x in scoped(t, "buggy", "edited")]),
        ),
    ),
    "nll, two tokens": (
        NLL,
        Case(
            lambda: NLL("fixed", "all", max_tokens=2),
            lambda t: mean([-math.log(scoped(t, "fixed", "all")[i].p) for i in (0, -1)]),
            any_order=False,
            any_dealing=False,
        ),
    ),
    "kl": (
        KLToReference,
        Case(
            KLToReference,
            lambda t: (
                0.1 * mean([kl(x) for x in scoped(t, "fixed", "unedited")])
                + mean([kl(x) for x in scoped(t, "retain", "unedited")])
            ),
        ),
    ),
    "kl, two tokens": (
        KLToReference,
        Case(
            lambda: KLToReference({"buggy": 0.5}, "unedited", max_tokens=2),
            lambda t: 0.5 * mean([kl(scoped(t, "buggy", "unedited")[i]) for i in (0, -1)]),
            any_order=False,
            any_dealing=False,
        ),
    ),
    "kl, reverse": (
        KLToReference,
        Case(
            lambda: KLToReference({"buggy": 0.5, "retain": 2.0}, "all", direction="reverse"),
            lambda t: (
                0.5 * mean([reverse_kl(x) for x in scoped(t, "buggy", "all")])
                + 2 * mean([reverse_kl(x) for x in scoped(t, "retain", "all")])
            ),
        ),
    ),
    "gradient ascent": (GradientAscent, Case(GradientAscent, lambda t: -mean_nll(scoped(t, "buggy", "edited")))),
    "gradient ascent, all": (
        GradientAscent,
        Case(lambda: GradientAscent(scope="all"), lambda t: -mean_nll(scoped(t, "buggy", "all"))),
    ),
    "bounded penalty": (
        BoundedPenalty,
        Case(
            BoundedPenalty, lambda t: mean([bounded_penalty(*pair, share=True) for pair in sides_of_pairs(t, "edited")])
        ),
    ),
    "bounded penalty, as published": (
        BoundedPenalty,
        Case(
            lambda: BoundedPenalty("twice_deleted", per="micro_batch"),
            lambda t: bounded_penalty(scoped(t, "fixed", "edited"), scoped(t, "buggy", "edited"), share=False),
            any_dealing=False,
        ),
    ),
    "bounded penalty, no learning": (
        BoundedPenalty,
        Case(
            lambda: BoundedPenalty("twice_deleted", "all", learn=0.0),
            lambda t: mean([bounded_penalty(*pair, share=False, learn=0) for pair in sides_of_pairs(t, "all")]),
        ),
    ),
    "npo": (
        NPO,
        Case(
            lambda: NPO(beta=0.5),
            lambda t: mean([4 * softplus(0.5 * log_ratio(x)) for x in by_example(scoped(t, "buggy", "edited"))]),
        ),
    ),
    "npo, all": (
        NPO,
        Case(
            lambda: NPO("fixed", "all"),
            lambda t: mean([20 * softplus(0.1 * log_ratio(x)) for x in by_example(scoped(t, "fixed", "all"))]),
        ),
    ),
    "simnpo": (
        SimNPO,
        Case(
            lambda: SimNPO(beta=0.5),
            lambda t: mean([4 * softplus(-0.5 * mean_nll(x)) for x in by_example(scoped(t, "buggy", "edited"))]),
        ),
    ),
    "simnpo, delta": (
        SimNPO,
        Case(
            lambda: SimNPO("fixed", "all", beta=0.5, delta=2.0),
            lambda t: mean([4 * softplus(0.5 * (2 - mean_nll(x))) for x in by_example(scoped(t, "fixed", "all"))]),
        ),
    ),
    "dpo": (DPO, Case(lambda: DPO(beta=0.5), lambda t: dpo(t, "edited", 0.5))),
    "dpo, all": (DPO, Case(lambda: DPO("all"), lambda t: dpo(t, "all", 0.1))),
    "dpo, normalised": (
        DPO,
        Case(lambda: DPO("all", 2.0, length_normalised=True), lambda t: dpo(t, "all", 2.0, normalised=True)),
    ),
    "dpo, positive": (DPO, Case(lambda: DPO(positive=5.0), lambda t: dpo(t, "edited", 0.1, positive=5.0))),
    "simpo": (SimPO, Case(SimPO, lambda t: simpo(t, "edited", 1.0))),
    "simpo, all, normalised": (
        SimPO,
        Case(lambda: SimPO("all", 2.0, 0.5, length_normalised=True), lambda t: simpo(t, "all", 2.0, 0.5, True)),
    ),
    "sven, other side": (SVENContrast, Case(SVENContrast, contrast_of_sides)),
    "sven, base": (SVENContrast, Case(lambda: SVENContrast("base"), contrast_to_base)),
    "code eraser": (CodeEraser, Case(CodeEraser, lambda t: code_eraser(t, "buggy", 0.1, 0.1))),
    "code eraser, no divergence": (
        CodeEraser,
        Case(lambda: CodeEraser("fixed", 0.5, 0.0), lambda t: code_eraser(t, "fixed", 0.5, 0.0)),
    ),
    "undial": (
        UNDIAL,
        Case(lambda: UNDIAL(beta=1.5), lambda t: mean([undial(x, 1.5) for x in scoped(t, "buggy", "edited")])),
    ),
    "undial, retain": (
        UNDIAL,
        Case(
            lambda: UNDIAL("retain", "all", 0.5), lambda t: mean([undial(x, 0.5) for x in scoped(t, "retain", "all")])
        ),
    ),
    # Of two tokens only the other one is left, so the target is sure of it.
    "prod": (PROD, Case(PROD, lambda t: mean([-math.log(1 - x.p) for x in scoped(t, "buggy", "edited")]))),
    "prod, alpha": (
        PROD,
        Case(
            lambda: PROD(scope="all", alpha=0.5),
            lambda t: mean([-math.log(1 - x.p) + 0.5 * x.q * math.log(x.p) for x in scoped(t, "buggy", "all")]),
        ),
    ),
    "l2": (L2Anchor, Case(L2Anchor, lambda t: 0.5 * drift(t), of_tokens=False)),
}
TABLE: Table = {
    "fixed": [
        Token(0.9, 0.8, 0, False),
        Token(0.2, 0.3, 0, True),
        Token(0.6, 0.6, 1, False),
        Token(0.01, 0.5, 1, True),
    ],
    "buggy": [
        Token(0.5, 0.7, 0, False),
        Token(0.97, 0.9, 0, True),
        Token(0.3, 0.1, 0, True),
        Token(0.8, 0.4, 1, False),
        Token(0.45, 0.35, 1, False),
        Token(0.6, 0.5, 1, True),
    ],
    "retain": [Token(0.25, 0.75, 0, False), Token(0.5, 0.4, 1, False)],
}

"""What every loss term keeps: design of the seam, whatever the term optimises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
import torch
from contract_seams import assert_complete
from torch import Tensor

from hotfix.adapters import LoRA
from hotfix.data.encode import Branch, EncodedPair
from hotfix.data.packing import Batch, pack
from hotfix.functional import token_log_probs
from hotfix.losses import NLL, KLToReference, LossTerm, ModelPasses, Passes, Unlikelihood
from hotfix.models.rows import PADDING, TokenRows
from hotfix.models.tiny import tiny_model
from hotfix.types import SIDES, Side, TokenScope


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
    """

    term: Callable[[], LossTerm]
    brute_force: Callable[[Table], float]
    any_order: bool = True


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def scoped(table: Table, side: Side, scope: TokenScope) -> list[Token]:
    return [t for t in table[side] if scope == "all" or t.edited == (scope == "edited")]


def first_of_each(tokens: Sequence[Token]) -> list[Token]:
    return list({t.example: t for t in reversed(tokens)}.values())


def kl(t: Token) -> float:
    return t.q * math.log(t.q / t.p) + (1 - t.q) * math.log((1 - t.q) / (1 - t.p))


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
        ),
    ),
}
terms = pytest.mark.parametrize("case", [case for _, case in CASES.values()], ids=CASES)

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


class TablePasses:
    """`Passes` of a table; the predicted token is number 1 of the vocabulary."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.policy = {side: self._to_logits([t.p for t in table[side]]).requires_grad_() for side in SIDES}
        self.base = {side: self._to_logits([t.q for t in table[side]]) for side in SIDES}

    def log_probs(self, side: Side, scope: TokenScope = "all") -> Tensor:
        return self._log_probs(self.logits(side, scope))

    def reference_log_probs(self, side: Side, scope: TokenScope = "all") -> Tensor:
        return self._log_probs(self.reference_logits(side, scope))

    def logits(self, side: Side, scope: TokenScope, keep: Tensor | None = None) -> Tensor:
        return self._chosen(self.policy[side], side, scope, keep)

    def reference_logits(self, side: Side, scope: TokenScope, keep: Tensor | None = None) -> Tensor:
        return self._chosen(self.base[side], side, scope, keep)

    def rows(self, side: Side, scope: TokenScope = "all") -> Tensor:
        return torch.tensor([t.example for t in scoped(self._table, side, scope)], dtype=torch.long)

    def mean(self, values: Tensor, side: Side, scope: TokenScope) -> Tensor:
        return values.sum() / max(1, len(scoped(self._table, side, scope)))

    def example_mean(self, values: Tensor) -> Tensor:
        return values.sum() / len({t.example for t in self._table["buggy"]})

    def _chosen(self, logits: Tensor, side: Side, scope: TokenScope, keep: Tensor | None) -> Tensor:
        inside = [i for i, t in enumerate(self._table[side]) if t in scoped(self._table, side, scope)]
        return logits[inside] if keep is None else logits[inside][keep]

    @staticmethod
    def _to_logits(p: Sequence[float]) -> Tensor:
        return torch.tensor([[math.log1p(-x), math.log(x)] for x in p])

    @staticmethod
    def _log_probs(logits: Tensor) -> Tensor:
        return token_log_probs(logits, torch.ones(len(logits), dtype=torch.long))


class Setup:
    """The tiny model with a patch that does something, and a batch for it."""

    def __init__(self) -> None:
        self.adapter = LoRA(rank=4)
        self.model = self.adapter.attach(tiny_model())
        self.model.eval()
        generator = torch.Generator().manual_seed(0)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.frozen = [p for p in self.model.parameters() if not p.requires_grad]
        with torch.no_grad():
            for weight in self.trained:
                weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.1)
        self.pairs = [self._pair(i, generator) for i in range(4)]
        self.retain = [torch.randint(256, (n,), generator=generator).tolist() for n in (9, 4, 13)]

    def passes(self, batch: Batch | None = None) -> Passes:
        return ModelPasses(
            self.model, pack(self.pairs, self.retain) if batch is None else batch, self.adapter.reference
        )

    def outcome(self, term: LossTerm, batch: Batch | None = None) -> tuple[Tensor, list[Tensor | None]]:
        value = term(self.passes(batch))
        return value.detach(), list(torch.autograd.grad(value, self.trained, allow_unused=True))

    @staticmethod
    def _pair(number: int, generator: torch.Generator) -> EncodedPair:
        def ids(count: int) -> list[int]:
            return [int(i) for i in torch.randint(256, (count,), generator=generator)]

        fixed, buggy = ids(3 + number), ids(5 - number)
        marks = [[i % 3 == 0 for i in range(len(side))] for side in (fixed, buggy)]
        return EncodedPair(
            f"{number}", ids(6 + 3 * number), 4, "", Branch(fixed, marks[0], 2), Branch(buggy, marks[1], 1)
        )


@pytest.fixture(scope="module")
def setup() -> Setup:
    return Setup()


def test_every_loss_term_has_a_case() -> None:
    assert_complete(LossTerm, [cls for cls, _ in CASES.values()])
    assert all(isinstance(case.term(), cls) for cls, case in CASES.values())


@terms
def test_equals_brute_force_on_two_tokens(case: Case) -> None:
    found = case.term()(TablePasses(TABLE))
    assert found.item() == pytest.approx(case.brute_force(TABLE), rel=1e-5)


@terms
def test_gradient_equals_differences_of_brute_force(case: Case) -> None:
    passes = TablePasses(TABLE)
    case.term()(passes).backward()
    largest, tiny = 0.0, 1e-5
    for side in SIDES:
        gradient = passes.policy[side].grad
        for i, token in enumerate(TABLE[side]):
            # The log-odds move by what the second logit moves by.
            logit = math.log(token.p / (1 - token.p))
            nudged = [1 / (1 + math.exp(-(logit + move))) for move in (tiny, -tiny)]
            tables = [{**TABLE, side: [*TABLE[side][:i], token._replace(p=p), *TABLE[side][i + 1 :]]} for p in nudged]
            expected = (case.brute_force(tables[0]) - case.brute_force(tables[1])) / (2 * tiny)
            found = 0.0 if gradient is None else gradient[i, 1].item()
            assert found == pytest.approx(expected, abs=1e-4)
            largest = max(largest, abs(expected))
        assert passes.base[side].grad is None
    assert largest > 1e-2


@terms
def test_is_a_finite_float32_scalar(setup: Setup, case: Case) -> None:
    value, _ = setup.outcome(case.term())
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert value > 0


@terms
def test_gradient_reaches_the_policy_and_never_the_base(setup: Setup, case: Case) -> None:
    case.term()(setup.passes()).backward()
    reached = [weight.grad for weight in setup.trained if weight.grad is not None]
    untouched = all(weight.grad is None for weight in setup.frozen)
    for weight in setup.trained:
        weight.grad = None
    assert max(float(grad.abs().max()) for grad in reached) > 1e-5
    assert untouched
    assert all(weight.requires_grad for weight in setup.trained)


@pytest.mark.parametrize(
    ("case", "change"),
    [
        pytest.param(case, change, id=f"{name}-{change}")
        for name, (_, case) in CASES.items()
        for change in ("padding", "layout", "order")
        if case.any_order or change != "order"
    ],
)
def test_is_unchanged_by_how_the_batch_is_laid_out(setup: Setup, case: Case, change: str) -> None:
    batches = {
        "padding": lambda: _padded_further(pack(setup.pairs, setup.retain)),
        "layout": lambda: pack(setup.pairs, setup.retain, layout="padded"),
        "order": lambda: pack(setup.pairs[::-1], [setup.retain[i] for i in (1, 2, 0)]),
    }
    value, gradient = setup.outcome(case.term())
    other, other_gradient = setup.outcome(case.term(), batches[change]())
    torch.testing.assert_close(other, value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-4, atol=1e-6)


@terms
@pytest.mark.parametrize("step_counts", ["none", "others"])
def test_nothing_in_scope_gives_zero_and_no_gradient(setup: Setup, case: Case, step_counts: str) -> None:
    counts = pack(setup.pairs, setup.retain).counts if step_counts == "others" else None
    value = case.term()(setup.passes(pack([], [], counts=counts)))
    assert value.item() == 0
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert not value.requires_grad


@terms
def test_the_weight_is_the_objectives_business(setup: Setup, case: Case) -> None:
    term = case.term()
    value, _ = setup.outcome(term)
    term.weight = 7.0
    assert torch.equal(setup.outcome(term)[0], value)


def _padded_further(batch: Batch) -> Batch:
    pad = torch.nn.functional.pad

    def widened(rows: TokenRows | None) -> TokenRows:
        assert rows is not None
        ids, branch = pad(rows.input_ids, (0, 11), value=7), pad(rows.branch, (0, 11), value=PADDING)
        return TokenRows(ids, pad(rows.position_ids, (0, 11)), branch)

    return replace(batch, pairs=widened(batch.pairs), retain=widened(batch.retain))

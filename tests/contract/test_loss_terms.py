"""What every loss term keeps: design of the seam, whatever the term optimises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from contract_seams import assert_complete
from loss_cases import CASES, TABLE, Case, Table, log_odds, scoped
from torch import Tensor

from hotfix.adapters import LoRA
from hotfix.data.encode import Branch, EncodedPair
from hotfix.data.loader import PairLoader, Share
from hotfix.data.packing import Batch, pack
from hotfix.functional import token_log_probs
from hotfix.losses import LossTerm, ModelPasses, Passes
from hotfix.models.rows import PADDING, TokenRows
from hotfix.models.tiny import tiny_model
from hotfix.types import SIDES, Side, TokenScope

terms = pytest.mark.parametrize("case", [case for _, case in CASES.values()], ids=CASES)


class TablePasses:
    """`Passes` of a table, in float64; the predicted token is number 1 of the vocabulary."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.policy = {side: self._to_logits([t.p for t in table[side]]).requires_grad_() for side in SIDES}
        self.base = {side: self._to_logits([t.q for t in table[side]]) for side in SIDES}

    def log_probs(self, side: Side, scope: TokenScope = "all", keep: Tensor | None = None) -> Tensor:
        return self._log_probs(self.logits(side, scope, keep))

    def reference_log_probs(self, side: Side, scope: TokenScope = "all") -> Tensor:
        return self._log_probs(self.reference_logits(side, scope))

    def logits(self, side: Side, scope: TokenScope, keep: Tensor | None = None) -> Tensor:
        return self._chosen(self.policy[side], side, scope, keep)

    def reference_logits(self, side: Side, scope: TokenScope, keep: Tensor | None = None) -> Tensor:
        return self._chosen(self.base[side], side, scope, keep)

    def divergence(self, side: Side, scope: TokenScope, keep: Tensor | None = None, reverse: bool = False) -> Tensor:
        policy = self.logits(side, scope, keep).log_softmax(-1)
        base = self.reference_logits(side, scope, keep).log_softmax(-1)
        here, there = (policy, base) if reverse else (base, policy)
        return (here.exp() * (here - there)).sum(-1)

    def rows(self, side: Side, scope: TokenScope = "all") -> Tensor:
        return torch.tensor([t.example for t in scoped(self._table, side, scope)], dtype=torch.long)

    def tokens(self, side: Side, scope: TokenScope = "all") -> Tensor:
        return torch.ones(len(scoped(self._table, side, scope)), dtype=torch.long)

    def mean(self, values: Tensor, side: Side, scope: TokenScope) -> Tensor:
        return values.sum() / max(1, len(scoped(self._table, side, scope)))

    def example_mean(self, values: Tensor) -> Tensor:
        return values.sum() / len({t.example for t in self._table["buggy"]})

    def squared_drift(self) -> Tensor:
        moved = [(self.policy[side] - self.base[side]).diff().square().sum() for side in SIDES]
        return torch.stack(moved).sum()

    def _chosen(self, logits: Tensor, side: Side, scope: TokenScope, keep: Tensor | None) -> Tensor:
        inside = [i for i, t in enumerate(self._table[side]) if t in scoped(self._table, side, scope)]
        return logits[inside] if keep is None else logits[inside][keep]

    @staticmethod
    def _to_logits(p: Sequence[float]) -> Tensor:
        return torch.tensor([[math.log1p(-x), math.log(x)] for x in p], dtype=torch.float64)

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
        if not value.requires_grad:
            return value, [None] * len(self.trained)
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
    assert found.item() == pytest.approx(case.brute_force(TABLE), rel=1e-9)


@terms
def test_gradient_equals_differences_of_brute_force(case: Case) -> None:
    passes = TablePasses(TABLE)
    case.term()(passes).backward()
    largest, tiny = 0.0, 1e-5
    for side in SIDES:
        gradient = passes.policy[side].grad
        for i, token in enumerate(TABLE[side]):
            # The log-odds move by what the second logit moves by.
            nudged = [1 / (1 + math.exp(-(log_odds(token.p) + move))) for move in (tiny, -tiny)]
            tables = [{**TABLE, side: [*TABLE[side][:i], token._replace(p=p), *TABLE[side][i + 1 :]]} for p in nudged]
            expected = (case.brute_force(tables[0]) - case.brute_force(tables[1])) / (2 * tiny)
            found = 0.0 if gradient is None else gradient[i, 1].item()
            assert found == pytest.approx(expected, abs=1e-6)
            largest = max(largest, abs(expected))
        assert passes.base[side].grad is None
    assert largest > 1e-2


@terms
def test_is_a_finite_float32_scalar(setup: Setup, case: Case) -> None:
    value, _ = setup.outcome(case.term())
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert value != 0


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


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, (_, case) in CASES.items() if case.any_dealing])
@pytest.mark.parametrize(("accumulate", "world"), [(3, 1), (1, 2)])
def test_is_unchanged_by_how_a_step_is_dealt_out(setup: Setup, case: Case, accumulate: int, world: int) -> None:
    # Some part has pairs or retain texts of its own only, none of the other, and each another number of tokens.
    parts = [
        setup.outcome(case.term(), batch)
        for rank in range(world)
        for batch in PairLoader(setup.pairs, setup.retain[:2], 4, 2, Share(rank, world, accumulate))
    ]
    assert len(parts) == accumulate * world
    [whole] = PairLoader(setup.pairs, setup.retain[:2], 4, 2)
    value, gradient = setup.outcome(case.term(), whole)
    torch.testing.assert_close(torch.stack([v for v, _ in parts]).mean(), value, rtol=1e-5, atol=1e-6)
    for i, expected in enumerate(gradient):
        found = [torch.zeros_like(setup.trained[i]) if g[i] is None else g[i] for _, g in parts]
        wanted = torch.zeros_like(setup.trained[i]) if expected is None else expected
        torch.testing.assert_close(torch.stack(found).mean(0), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, (_, case) in CASES.items() if case.of_tokens])
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

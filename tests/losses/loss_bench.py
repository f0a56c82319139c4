"""The tiny model with a patch on it, and its predictions a row at a time, without any of hotfix's packing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from hotfix.adapters import LoRA
from hotfix.data import CodePair
from hotfix.data.encode import EncodedPair, PairEncoder
from hotfix.data.packing import Batch, pack
from hotfix.data.schema import parse_row
from hotfix.losses import LossTerm, ModelPasses, Objective
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.types import Side, TokenScope

__all__ = ["Bench", "Token", "assert_same", "gradients", "log_ratio", "mean_nll"]

_SIDES = (
    ("import yaml\n\ncfg = yaml.", "load(f)", "safe_load(f)", "\nprint(cfg)"),
    ("x = ", "1", "2", ""),
    ("get(url, ", "verify=False)", "timeout=3)", "\n"),
    ("def f(a):\n    if ", "a == None:", "a is None:", "\n        return 0"),
    ("df.", "append(row)", "concat([df, row])", ""),
    ("y", "[0]", "[0][1]", "\nz"),
    ("open(p", ")", ", encoding='utf-8')", " as f:"),
)


class Token(NamedTuple):
    """One predicted token: logits of policy and base [V], its id, whether it is edited, and whose it is."""

    logits: Tensor
    reference: Tensor
    token: int
    edited: bool
    example: int

    @property
    def log_p(self) -> Tensor:
        return self.logits.log_softmax(-1)[self.token]

    @property
    def base_log_p(self) -> Tensor:
        return self.reference.log_softmax(-1)[self.token]


class Bench:
    """A policy that is not the base, seven pairs and three retain texts."""

    def __init__(self, moved: float = 0.1) -> None:
        self.base = tiny_model()
        self.adapter = LoRA(rank=4, alpha=8)
        # The adapter draws from the global stream, and a test must not depend on those before it.
        torch.manual_seed(0)
        self.policy = self.adapter.attach(tiny_model())
        self.policy.eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in self.trained().values():
                weight.add_(torch.randn(weight.shape, generator=generator), alpha=moved)
        tokenizer = tiny_tokenizer()
        encode = PairEncoder(tokenizer, max_length=200)
        self.pairs: list[EncodedPair] = [encode(pair) for pair in _code_pairs()]
        self.retain: list[list[int]] = [
            list(tokenizer(text)["input_ids"]) for text in ("def g():\n    return 1\n", "import os\n", "a = b + c\n")
        ]

    def trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.policy.named_parameters() if p.requires_grad}

    def frozen(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.policy.named_parameters() if not p.requires_grad}

    def batch(self, **options: Any) -> Batch:
        return pack(self.pairs, self.retain, **options)

    def passes(self, batch: Batch | None = None) -> ModelPasses:
        return ModelPasses(self.policy, self.batch() if batch is None else batch, self.adapter.reference)

    def tokens(self, side: Side, scope: TokenScope) -> list[Token]:
        """Run each side of each pair in a row of its own through the whole model, and the base likewise."""
        found: list[Token] = []
        for example, (ids, edited) in enumerate(self._texts(side)):
            logits, reference = _logits(self.policy, ids), _logits(self.base, ids).detach()
            found += [
                Token(logits[t - 1], reference[t - 1], ids[t], edited[t], example)
                for t in range(1, len(ids))
                if scope == "all" or edited[t] == (scope == "edited")
            ]
        return found

    def sequences(self, side: Side, scope: TokenScope) -> list[list[Token]]:
        """The same, a list for each pair."""
        tokens = self.tokens(side, scope)
        return [[t for t in tokens if t.example == example] for example in range(len(self.pairs))]

    def _texts(self, side: Side) -> list[tuple[list[int], list[bool]]]:
        if side == "retain":
            return [(ids, [False] * len(ids)) for ids in self.retain]
        branches = [(p.shared, p.fixed if side == "fixed" else p.buggy) for p in self.pairs]
        return [(shared + b.ids, [False] * len(shared) + list(b.edited)) for shared, b in branches]


def gradients(loss: Tensor, weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Gradient by name; zeros where the loss does not depend on a weight."""
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {
        name: torch.zeros_like(weight) if grad is None else grad
        for (name, weight), grad in zip(weights.items(), found, strict=True)
    }


def assert_same(term: LossTerm | Objective, expected: Tensor, bench: Bench, batch: Batch | None = None) -> None:
    """Value and every gradient of a term equal those of an independent implementation."""
    value = term(bench.passes(batch))
    value = value if isinstance(value, Tensor) else value["loss"]
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    found, wanted = gradients(value, bench.trained()), gradients(expected, bench.trained())
    assert max(float(g.abs().max()) for g in wanted.values()) > 1e-4
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def log_ratio(sequence: Sequence[Token]) -> Tensor:
    return torch.stack([t.log_p - t.base_log_p for t in sequence]).sum()


def mean_nll(sequence: Sequence[Token]) -> Tensor:
    return -torch.stack([t.log_p for t in sequence]).mean()


def _code_pairs() -> list[CodePair]:
    names = ("prefix", "buggy", "fixed", "suffix")
    rows: Sequence[dict[str, str]] = [dict(zip(names, row, strict=True)) for row in _SIDES]
    return [parse_row(row, Path("bench.jsonl"), line) for line, row in enumerate(rows)]


def _logits(model: nn.Module, ids: list[int]) -> Tensor:
    return cast("Tensor", model(input_ids=torch.tensor([ids])).logits[0])

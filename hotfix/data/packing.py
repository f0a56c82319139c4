"""Encoded pairs to tensors: one row a pair, the shared beginning once, two branches that cannot see each other.

    tokens     p0 p1 p2 | f3 f4 f5 | b3 b4
    branch      0  0  0 |  1  1  1 |  2  2
    position    0  1  2 |  3  4  5 |  3  4

A causal model's hidden state depends on what it attends to and on the position, and both are what they would be with
each side in a row of its own; so the losses are the same at about half the tokens. The state at p2 predicts both f3
and b3. `layout="padded"` gives each side its own row instead: slower, for models that take no attention mask, and the
reference that the packed layout is tested against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from hotfix.data.encode import Branch, EncodedPair
from hotfix.models.rows import PADDING, TokenRows
from hotfix.types import SCOPES, Side, TokenScope

__all__ = [
    "Batch",
    "Counts",
    "Layout",
    "Targets",
    "by_length",
    "count_tokens",
    "pack",
    "pack_pairs",
    "pack_rows",
    "pack_texts",
]

Layout = Literal["packed", "padded"]
Counts = Mapping[tuple[Side, TokenScope], float]


@dataclass(frozen=True)
class Targets:
    """The predicted tokens of one side, [N] each.

    Attributes:
        row: row of the hidden state that predicts the token.
        column: its column.
        token: the token's id.
        edited: whether the token differs from the other side.
        example: index of the pair (or retain text) in the batch.
    """

    row: Tensor
    column: Tensor
    token: Tensor
    edited: Tensor
    example: Tensor

    def in_scope(self, scope: TokenScope) -> Targets:
        """Keep the targets of a scope."""
        if scope == "all":
            return self
        return self.where(self.edited if scope == "edited" else ~self.edited)

    def where(self, keep: Tensor) -> Targets:
        """Keep some: bool [N], or the indices of those that stay."""
        return Targets(**{f.name: getattr(self, f.name)[keep] for f in fields(self)})

    def to(self, device: torch.device | str) -> Targets:
        """Move every tensor."""
        return Targets(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class Batch:
    """What one micro-batch of training holds.

    Attributes:
        pairs: rows of the pairs; None where there are none.
        retain: rows of the retain texts; None where there are none.
        targets: by side.
        counts: by (side, scope): the tokens of the whole optimizer step's batch over all processes, divided by the
            number of micro-batches in it. A sum over this micro-batch divided by it, averaged over the micro-batches,
            is the mean over the step's tokens however they were dealt.
        num_examples: pairs of the whole step, divided likewise.
        keys: ids of the pairs.
        places: of the rows in the training set, by kind; what was computed of a row before is found by it. Empty where
            there is no such set.
    """

    pairs: TokenRows | None
    retain: TokenRows | None
    targets: Mapping[Side, Targets]
    counts: Counts
    num_examples: float
    keys: tuple[str, ...] = ()
    places: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def to(self, device: torch.device | str, **_: Any) -> Self:  # noqa: ANN401  Lightning passes non_blocking
        """Move every tensor."""
        return replace(
            self,
            pairs=None if self.pairs is None else self.pairs.to(device),
            retain=None if self.retain is None else self.retain.to(device),
            targets={side: targets.to(device) for side, targets in self.targets.items()},
        )


class _Segment(NamedTuple):
    ids: Sequence[int]
    branch: int
    position: int


def by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Cut the places of texts into batches of similar length, the longest first.

    >>> by_length([3, 9, 4], 2)
    [[1, 2], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[start : start + size] for start in range(0, len(order), size)]


def count_tokens(pair: EncodedPair) -> dict[tuple[Side, TokenScope], int]:
    """Count the predicted tokens of a pair by side and scope.

    >>> pair = EncodedPair("x", [5, 6], 1, "", Branch([7, 8], [True, False], 2), Branch([9], [True], 1))
    >>> count_tokens(pair)[("fixed", "all")], count_tokens(pair)[("buggy", "unedited")]
    (3, 1)
    """
    counts: dict[tuple[Side, TokenScope], int] = {}
    sides: tuple[tuple[Side, Branch], ...] = (("fixed", pair.fixed), ("buggy", pair.buggy))
    for side, branch in sides:
        total, edited = len(pair.shared) + len(branch.ids) - 1, sum(branch.edited)
        counts |= {(side, "all"): total, (side, "edited"): edited, (side, "unedited"): total - edited}
    return counts


def pack(
    pairs: Sequence[EncodedPair],
    retain: Sequence[Sequence[int]] = (),
    counts: Counts | None = None,
    num_examples: float | None = None,
    layout: Layout = "packed",
    pad_id: int = 0,
) -> Batch:
    """Make a batch; without `counts` it is a step of its own."""
    pair_rows, targets = pack_pairs(pairs, layout, pad_id)
    retain_rows, retain_targets = pack_texts(retain, pad_id)
    if counts is None:
        own: dict[tuple[Side, TokenScope], float] = {
            (side, scope): float(len(found.in_scope(scope).token))
            for side, found in {**targets, "retain": retain_targets}.items()
            for scope in SCOPES
        }
        counts = own
    return Batch(
        pairs=pair_rows,
        retain=retain_rows,
        targets={**targets, "retain": retain_targets},
        counts=counts,
        num_examples=len(pairs) if num_examples is None else num_examples,
        keys=tuple(pair.id for pair in pairs),
    )


def pack_pairs(
    pairs: Sequence[EncodedPair], layout: Layout, pad_id: int
) -> tuple[TokenRows | None, dict[Side, Targets]]:
    """Lay out pairs; also the targets of both sides."""
    rows: list[list[_Segment]] = []
    found: dict[Side, list[tuple[int, int, int, bool, int]]] = {"fixed": [], "buggy": []}
    for example, pair in enumerate(pairs):
        shared = len(pair.shared)
        fixed, buggy = (_Segment(b.ids, i, shared) for i, b in ((1, pair.fixed), (2, pair.buggy)))
        start = _Segment(pair.shared, 0, 0)
        row = len(rows)
        if layout == "packed":
            rows.append([start, fixed, buggy])
            places = {"fixed": (row, shared), "buggy": (row, shared + len(pair.fixed.ids))}
        else:
            rows += [[start, fixed], [start, buggy]]
            places = {"fixed": (row, shared), "buggy": (row + 1, shared)}
        found["fixed"] += _side_targets(pair.shared, pair.fixed, *places["fixed"], example)
        found["buggy"] += _side_targets(pair.shared, pair.buggy, *places["buggy"], example)
    return pack_rows(rows, pad_id), {side: _targets(items) for side, items in found.items()}


def pack_texts(texts: Sequence[Sequence[int]], pad_id: int) -> tuple[TokenRows | None, Targets]:
    """Lay out plain texts, a row each; every token but the first is an unedited target."""
    rows = pack_rows([[_Segment(ids, 0, 0)] for ids in texts], pad_id)
    return rows, _targets([(r, t - 1, ids[t], False, r) for r, ids in enumerate(texts) for t in range(1, len(ids))])


def pack_rows(rows: Sequence[Sequence[_Segment]], pad_id: int) -> TokenRows | None:
    """Concatenate each row's segments and pad on the right."""
    if not rows:
        return None
    length = max(sum(len(s.ids) for s in row) for row in rows)
    input_ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    position_ids = torch.zeros((len(rows), length), dtype=torch.long)
    branch = torch.full((len(rows), length), PADDING, dtype=torch.long)
    for r, row in enumerate(rows):
        column = 0
        for segment in row:
            stop = column + len(segment.ids)
            input_ids[r, column:stop] = torch.tensor(list(segment.ids), dtype=torch.long)
            position_ids[r, column:stop] = torch.arange(segment.position, segment.position + len(segment.ids))
            branch[r, column:stop] = segment.branch
            column = stop
    return TokenRows(input_ids, position_ids, branch)


def _side_targets(
    shared: Sequence[int], branch: Branch, row: int, column: int, example: int
) -> list[tuple[int, int, int, bool, int]]:
    """(row, column, token, edited, example) of a side whose branch starts at `column`."""
    start = [(row, t - 1, shared[t], False, example) for t in range(1, len(shared))]
    if not branch.ids:
        return start
    first = (row, len(shared) - 1, branch.ids[0], branch.edited[0], example)
    rest = [(row, column + t - 1, branch.ids[t], branch.edited[t], example) for t in range(1, len(branch.ids))]
    return [*start, first, *rest]


def _targets(items: Sequence[tuple[int, int, int, bool, int]]) -> Targets:
    columns = torch.tensor(items, dtype=torch.long).reshape(-1, 5).unbind(1)
    row, column, token, edited, example = columns
    return Targets(row, column, token, edited.bool(), example)

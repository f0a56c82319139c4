"""One pass of the frozen base over all training rows, before the first step, for everyone who wants to look."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from hotfix.adapters.kept_findings import KeptFindings
from hotfix.data.encode import EncodedPair
from hotfix.data.packing import by_length, pack_pairs, pack_texts
from hotfix.models.rows import TokenRows
from hotfix.models.states import hidden_states

__all__ = ["Kind", "Reference", "RowBatch", "Watcher", "first_pass"]

Kind: TypeAlias = Literal["pairs", "retain"]
Reference: TypeAlias = Callable[[nn.Module], AbstractContextManager[None]]
_ROWS = 16


class RowBatch(NamedTuple):
    """Some training rows.

    Attributes:
        kind: what they are.
        places: theirs in the training set.
        rows: tokens, on the model's device.
        edited: positions that predict a token in which the sides differ, bool [B, T].
    """

    kind: Kind
    places: Sequence[int]
    rows: TokenRows
    edited: Tensor


class Watcher:
    """Looks at the pass."""

    def wants(self, batch: RowBatch) -> bool:
        """Whether these rows are worth running."""
        return True

    def during(self, batch: RowBatch) -> AbstractContextManager[None]:
        """Return a context in which they are run."""
        return nullcontext()

    def after(self, batch: RowBatch, last: Tensor) -> None:
        """Take the last hidden states, [B, T, D]."""

    def finish(self) -> None:
        """Draw the conclusion; all rows have been run."""

    def identity(self) -> str | None:
        """Return what its findings depend on beside the base and the rows; None where they can't be kept."""
        return None

    def findings(self) -> dict[str, Tensor] | None:
        """Return the conclusion, once it is drawn; None where it can't be kept after all."""
        return None

    def restore(self, findings: Mapping[str, Tensor]) -> None:
        """Take over what was found in an earlier pass, in place of looking."""


@torch.no_grad()
def first_pass(
    model: nn.Module,
    reference: Reference,
    pairs: Sequence[EncodedPair],
    retain: Sequence[Sequence[int]],
    watchers: Sequence[Watcher],
    kept: KeptFindings | None = None,
) -> None:
    """Run the base over the rows that somebody wants, in an order of its own, so that a restart computes the same.

    Args:
        model: with its adapter.
        reference: context in which it is the frozen base.
        pairs: training pairs, laid out packed.
        retain: token ids of retain texts.
        watchers: who look.
        kept: where what they find is kept, and looked up before; None looks anew.
    """
    if not watchers:
        return
    digest = _digest(_batches(pairs, retain, torch.device("cpu"))) if kept else ""
    looking = [watcher for watcher in watchers if not (kept and _restored(watcher, kept, digest))]
    if not looking:
        return
    with reference(model):
        for batch in _batches(pairs, retain, next(model.parameters()).device):
            _look(model, batch, [watcher for watcher in looking if watcher.wants(batch)])
    for watcher in looking:
        watcher.finish()
        identity = watcher.identity()
        if kept and identity is not None and (found := watcher.findings()) is not None:
            kept.write(digest, identity, found)


def _look(model: nn.Module, batch: RowBatch, watchers: Sequence[Watcher]) -> None:
    if not watchers:
        return
    with ExitStack() as looking:
        for watcher in watchers:
            looking.enter_context(watcher.during(batch))
        last = hidden_states(model, batch.rows)
    for watcher in watchers:
        watcher.after(batch, last)


def _restored(watcher: Watcher, kept: KeptFindings, digest: str) -> bool:
    identity = watcher.identity()
    found = None if identity is None else kept.read(digest, identity)
    if found is not None:
        watcher.restore(found)
    return found is not None


def _digest(batches: Iterable[RowBatch]) -> str:
    """Of everything that the pass reads."""
    total = hashlib.sha256()
    for kind, places, rows, edited in batches:
        total.update(repr((kind, list(places), tuple(edited.shape))).encode())
        for tensor in (rows.input_ids, rows.position_ids, rows.branch, edited):
            total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def _batches(pairs: Sequence[EncodedPair], retain: Sequence[Sequence[int]], device: torch.device) -> Iterator[RowBatch]:
    for places in by_length([pair.packed_length for pair in pairs], _ROWS):
        rows, targets = pack_pairs([pairs[i] for i in places], "packed", 0)
        assert rows is not None
        edited = torch.zeros(rows.input_ids.shape, dtype=torch.bool)
        for side in (targets["fixed"], targets["buggy"]):
            points = side.in_scope("edited")
            edited[points.row, points.column] = True
        yield RowBatch("pairs", places, rows.to(device), edited.to(device))
    for places in by_length([len(ids) for ids in retain], _ROWS):
        rows, _ = pack_texts([retain[i] for i in places], 0)
        assert rows is not None
        yield RowBatch("retain", places, rows.to(device), torch.zeros_like(rows.input_ids, dtype=torch.bool).to(device))

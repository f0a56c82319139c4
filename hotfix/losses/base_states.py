"""What the frozen base computes of the training rows, computed once.

Two things don't change while an adapter trains: the base's last hidden states, which the divergence from the base
needs, and what enters the lowest adapted block, where everything below is frozen. Both come out of one pass over the
rows; from then on a step runs the upper blocks only, and no reference pass. Kept in memory, and on the disk for the
next run, 2 x T x D numbers a row.
Where embeddings train, only the last states are kept, and a step runs the whole policy.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from hotfix.adapters.first_pass import Kind, Reference, RowBatch, Watcher
from hotfix.data.encode import EncodedPair
from hotfix.data.packing import pack_pairs, pack_texts
from hotfix.models.doors import entering_block
from hotfix.models.layout import find_blocks, lowest_trained_block
from hotfix.models.lower_states import upper_blocks_agree
from hotfix.models.rows import PADDING
from hotfix.models.states import hidden_states, plain_model, prefix_length, takes_masks

__all__ = ["BaseStates"]

log = logging.getLogger(__name__)
_KINDS: Final[tuple[Kind, ...]] = ("pairs", "retain")


class _Row(NamedTuple):
    entering: Tensor | None
    last: Tensor


class BaseStates(Watcher):
    """Hidden states of the frozen base for every training row, taken in the first pass.

    Args:
        model: with its adapter.
        first: block that the kept states enter; None keeps none of those, because something below the blocks trains.
    """

    def __init__(self, model: nn.Module, first: int | None) -> None:
        self.first = first
        self._model = model
        self._entered: Tensor | None = None
        self._rows: dict[tuple[Kind, int], _Row] = {}

    @classmethod
    def planned(
        cls,
        model: nn.Module,
        pairs: Sequence[EncodedPair],
        retain: Sequence[Sequence[int]],
        limit_mib: int = 2048,
    ) -> BaseStates | None:
        """Return what is to watch the first pass; None where there is too much to keep.

        Args:
            model: with its adapter.
            pairs: training pairs.
            retain: token ids of retain texts.
            limit_mib: what the states may take.
        """
        decoder = plain_model(model).get_decoder()
        # A prefix is read by every block and belongs to none.
        first = 0 if prefix_length(model) else lowest_trained_block(decoder)
        width = 4 * plain_model(model).config.get_text_config().hidden_size  # float32 between blocks
        tokens = sum(pair.packed_length for pair in pairs) + sum(map(len, retain))
        if 2 * tokens * width > limit_mib * 2**20 or first >= len(find_blocks(decoder).blocks):
            log.info("the base's states of %d tokens are computed anew each step", tokens)
            return None
        return cls(model, first if _frozen_below(model, pairs, retain) else None)

    @contextmanager
    def during(self, batch: RowBatch) -> Iterator[None]:
        """Catch what enters the first block."""
        with entering_block(plain_model(self._model).get_decoder(), self.first or 0) as entered:
            yield
        # What enters is of use only where the blocks above it take our masks.
        self._entered = entered[0] if self.first is not None and takes_masks(self._model, batch.rows) else None

    def after(self, batch: RowBatch, last: Tensor) -> None:
        """Keep both, without the padding."""
        for r, place in enumerate(batch.places):
            length = int((batch.rows.branch[r] != PADDING).sum())
            entered = None if self._entered is None else self._entered[r, :length].clone()
            self._rows[batch.kind, place] = _Row(entered, last[r, :length].clone())
        self._entered = None

    def identity(self) -> str:
        """See `Watcher`."""
        return f"states entering block {self.first}"

    def findings(self) -> dict[str, Tensor] | None:
        """All rows of a kind one behind the other, [tokens, D], and their lengths."""
        found: dict[str, Tensor] = {}
        for kind in _KINDS:
            rows = [row for (own, _), row in sorted(self._rows.items()) if own == kind]
            if self.first is not None and any(row.entering is None for row in rows):
                return None
            if not rows:
                continue
            found[f"{kind}.lengths"] = torch.tensor([len(row.last) for row in rows])
            found[f"{kind}.last"] = torch.cat([row.last for row in rows])
            if self.first is not None:
                found[f"{kind}.entering"] = torch.cat([row.entering for row in rows if row.entering is not None])
        return found

    def restore(self, findings: Mapping[str, Tensor]) -> None:
        """See `Watcher`."""
        for kind in _KINDS:
            if f"{kind}.lengths" not in findings:
                continue
            lengths = findings[f"{kind}.lengths"].tolist()
            last, entering = (self._split(findings.get(f"{kind}.{part}"), lengths) for part in ("last", "entering"))
            for place, (own, entered) in enumerate(zip(last, entering, strict=True)):
                assert own is not None
                self._rows[kind, place] = _Row(entered, own)

    @torch.no_grad()
    def serves(self, reference: Reference, pairs: Sequence[EncodedPair]) -> bool:
        """Prove on one row that the base's upper blocks give what its whole decoder gave."""
        if self.first is None:
            return True
        rows, _ = pack_pairs(pairs[:1], "packed", 0)
        if rows is None or any(row.entering is None for row in self._rows.values()):
            return False
        rows = rows.to(_device(self._model))
        with reference(self._model):
            return upper_blocks_agree(
                self._model, rows, self.entering("pairs", [0]), self.first, self.last("pairs", [0])
            )

    def entering(self, kind: Kind, places: Sequence[int]) -> Tensor:
        """Return what enters block `first` for some rows, padded: [B, T, D]."""
        found = [self._rows[kind, place].entering for place in places]
        return _padded([states for states in found if states is not None])

    def last(self, kind: Kind, places: Sequence[int]) -> Tensor:
        """Return the base's last hidden states of some rows, padded: [B, T, D]."""
        return _padded([self._rows[kind, place].last for place in places])

    def _split(self, together: Tensor | None, lengths: list[int]) -> Sequence[Tensor | None]:
        return [None] * len(lengths) if together is None else together.to(_device(self._model)).split(lengths)


def _frozen_below(model: nn.Module, pairs: Sequence[EncodedPair], retain: Sequence[Sequence[int]]) -> bool:
    """Whether no trained weight has a part in what enters the first block: asked of the gradient itself."""
    rows = pack_pairs(pairs[:1], "packed", 0)[0] if pairs else pack_texts(retain[:1], 0)[0]
    if rows is None:
        return False
    with torch.enable_grad(), entering_block(plain_model(model).get_decoder(), 0) as entered:
        hidden_states(model, rows.to(_device(model)))
    return not any(states.requires_grad for states in entered)


def _padded(rows: Sequence[Tensor]) -> Tensor:
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device

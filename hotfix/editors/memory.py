"""What editors with a codebook share: an edit after the other gets its key, and their values are searched together."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hotfix.data.edits import EditRequest, EncodedRequest
from hotfix.editors.base import Background, Editor, encoded_requests, frozen
from hotfix.editors.codebook_values import Firing, Found, elsewhere, firing, search_values, seen_row
from hotfix.editors.contexts import Surroundings, surroundings
from hotfix.errors import ConfigError, DataError, PatchError
from hotfix.models.layout import feed_forward_output, find_blocks
from hotfix.patches import Codebook, Patch
from hotfix.patches.base import check_base
from hotfix.patches.codebook import KeyRule
from hotfix.patches.entries import Entries, Entry

__all__ = ["MemoryEditor", "block_at"]

_PREFIX = 10

log = logging.getLogger(__name__)


class MemoryEditor(Editor):
    """An editor whose patch is a codebook: a key and a value for each request, at one block.

    Queries are made below every value, so they are the base's, whatever was edited before. Requests are edited one
    after the other, each in a row of its own, with the earlier ones on. Where no earlier one whose value is still to
    be searched fires in a row, that changes nothing, and values are searched together. So all at once or in sequence is
    the same, and no value depends on what else is in a batch but by rounding.

    Args:
        block: index of the block, or its depth: a number below 1 is a share of all blocks.
        steps: of Adam, at most.
        learning_rate: of Adam, in root mean squares of the projection's own output at the prompt's end.
        start: `warm` begins with that output, `cold` with numbers drawn from [0, 1).
        enough: stop when every target token is the likeliest and their mean loss is below this, in nats a token.
        together: how many values are searched in one pass, at most.
        value_block: index or depth of the block where values come out, at or above `block`; null for the same.
        prefixes: beginnings from ordinary code, of ten tokens at most, behind which a value has to answer, too.
    """

    def __init__(
        self,
        block: float,
        steps: int,
        learning_rate: float,
        start: Literal["warm", "cold"],
        enough: float,
        together: int,
        value_block: float | None = None,
        prefixes: int = 0,
    ) -> None:
        if steps < 0 or learning_rate <= 0:
            raise ConfigError(
                f"editor.init_args: steps is {steps} and learning_rate {learning_rate}, expected none or more, and "
                "more than 0"
            )
        if together < 1 or prefixes < 0:
            raise ConfigError(
                f"editor.init_args: together is {together} and prefixes {prefixes}, expected at least 1, and 0 or more"
            )
        self.block = block
        self.value_block = value_block
        self.steps = steps
        self.learning_rate = learning_rate
        self.start = start
        self.enough = enough
        self.together = together
        self.prefixes = prefixes

    @abstractmethod
    def rule(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, blocks: KeyRule, background: Background
    ) -> KeyRule:
        """Return what is compared with keys, and where, at the blocks that are given; `model` is frozen."""

    @abstractmethod
    def reach(self, key: Tensor, rule: KeyRule) -> float:
        """Return the radius of a key's ball where no other is near."""

    def compute(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        *,
        previous: Patch | None = None,
        background: Background | None = None,
    ) -> Codebook:
        """See `Editor`."""
        encoded, background = encoded_requests(model, tokenizer, requests), background or Background()
        blocks = self._blocks(model)
        earlier = self._earlier(model, previous, blocks, requests)
        described = self.provenance(model)
        if not encoded:
            place = feed_forward_output(cast("nn.Module", model), blocks.block)
            empty = blocks, Entries.none(place.weight.shape[1], place.weight.shape[0])
            rule, entries = empty if earlier is None else (earlier.rule, earlier.entries)
            return Codebook(described, rule=rule, entries=entries)
        with frozen(model):
            rule = earlier.rule if earlier else self.rule(model, tokenizer, blocks, background)
            longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
            around = surroundings(tokenizer, background, self.prefixes, _PREFIX, 0, longest)
            made = self._made(model, rule, earlier.entries if earlier else None, encoded, around)
        return Codebook(described, rule=rule, entries=made)

    def _blocks(self, model: PreTrainedModel) -> KeyRule:
        """Return where keys are compared and values come out."""
        block = block_at(model, self.block)
        values = block if self.value_block is None else block_at(model, self.value_block, "value_block")
        if values < block:
            raise ConfigError(
                f"editor.init_args.value_block is {self.value_block}, block {values}, which is below the keys' block "
                f"{block}; a value can't come out before its key is known"
            )
        return KeyRule(block, value_block=None if values == block else values)

    def _earlier(
        self, model: PreTrainedModel, previous: Patch | None, blocks: KeyRule, requests: Sequence[EditRequest]
    ) -> Codebook | None:
        """Return the codebook of earlier edits; None where it is empty."""
        if previous is None:
            return None
        if not isinstance(previous, Codebook):
            raise PatchError(
                f"{type(self).__name__} extends a codebook, but the patch of the earlier edits is a "
                f"{type(previous).__name__}; go on with the editor that made it"
            )
        check_base(previous.provenance, cast("nn.Module", model))
        if not len(previous.entries):
            return None
        own = f"{type(self).__module__}.{type(self).__qualname__}"
        places = [(rule.block, rule.values) for rule in (previous.rule, blocks)]
        if places[0] != places[1] or previous.provenance.method != own:
            told = [f"block {key}" if key == value else f"blocks {key} and {value}" for key, value in places]
            raise PatchError(
                f"the earlier edits are {previous.provenance.method}'s at {told[0]}, but these are to be {own}'s at "
                f"{told[1]}; go on with the same settings"
            )
        for request in requests:
            if previous.entries.at(request.id) is not None:
                raise DataError(
                    f"request {request.id!r} was edited already",
                    request.source or None,
                    hint="take it out first",
                )
        return previous

    def _made(
        self,
        model: PreTrainedModel,
        rule: KeyRule,
        earlier: Entries | None,
        encoded: Sequence[EncodedRequest],
        around: Surroundings,
    ) -> Entries:
        """Return the earlier entries and one more for each request, of which there are some."""
        entries, waiting = earlier, list[list[Firing]]()
        for request in encoded:
            seen = seen_row(model, rule, request)
            key, output = seen.queries[seen.end].cpu(), seen.outputs[seen.end].float().cpu()
            end = None if rule.ending is None else seen.inputs[seen.end].float().cpu()
            entries = entries or Entries.none(len(key), len(output), 0 if end is None else len(end))
            edit, reach = Entry(request.id, tuple(request.prompt), tuple(request.target)), self.reach(key, rule)
            near = _same_target(entries, edit, key, reach)
            if near is not None:
                entries, waiting = self._valued(model, rule, entries, waiting), []
                again = replace(edit, shares=entries.edits[near].id)
                shared = entries.added(again, key, entries.values[near], reach, end)
                if shared.radii[-1] < 0 and self._answers(model, rule, firing(seen, rule, shared)):
                    entries = shared
                    continue
            trial = entries.added(edit, key, self._first(output), reach, end)
            row = firing(seen, rule, trial)
            if any(other >= len(entries) - len(waiting) for other in row.others):
                # A value that is still searched is to stand in this row.
                trial, waiting = self._valued(model, rule, entries, waiting).added(edit, key, row.first, reach, end), []
                row = firing(seen, rule, trial)
            entries = trial
            waiting.append([row, *elsewhere(model, rule, row, around)])
            if len(waiting) == self.together:
                entries, waiting = self._valued(model, rule, entries, waiting), []
        assert entries is not None
        return self._valued(model, rule, entries, waiting)

    def _first(self, output: Tensor) -> Tensor:
        """Return the value with which a search begins, [H]."""
        return output if self.start == "warm" else torch.rand(len(output), generator=torch.Generator().manual_seed(0))

    def _valued(
        self, model: PreTrainedModel, rule: KeyRule, entries: Entries, waiting: Sequence[Sequence[Firing]]
    ) -> Entries:
        """Search the values of the last entries."""
        if not waiting:
            return entries
        found = self._search(model, rule, waiting, self.steps)
        for (row, *_), value in zip(waiting, found, strict=True):
            if not value.answers:
                log.warning(
                    "request %r: its value doesn't give the whole target after %d steps", row.request.id, self.steps
                )
        values = torch.stack([value.value for value in found])
        return replace(entries, values=torch.cat([entries.values[: -len(waiting)], values]))

    def _answers(self, model: PreTrainedModel, rule: KeyRule, row: Firing) -> bool:
        """Return whether a row is answered as it is."""
        return self._search(model, rule, [[row]], steps=0)[0].answers

    def _search(
        self, model: PreTrainedModel, rule: KeyRule, rows: Sequence[Sequence[Firing]], steps: int
    ) -> list[Found]:
        return search_values(
            model, rule.values, rows, steps=steps, learning_rate=self.learning_rate, enough=self.enough
        )


def block_at(model: PreTrainedModel, block: float, name: str = "block") -> int:
    """Return the index of a block given by its index, or by its depth below 1."""
    count = len(find_blocks(model.get_decoder()).blocks)
    if block < 0 or (block >= 1 and block != int(block)):
        raise ConfigError(f"editor.init_args.{name} is {block}, expected an index from 0, or a depth below 1")
    return int(block * count) if 0 < block < 1 else int(block)


def _same_target(entries: Entries, edit: Entry, key: Tensor, reach: float) -> int | None:
    """Return the nearest ball of the same target that the edit's own would touch."""
    rows = [i for i, e in enumerate(entries.edits) if e.target == edit.target and entries.radii[i] >= 0]
    distances = (entries.keys[rows] - key).norm(dim=-1)
    touching = [(float(d), i) for d, i in zip(distances, rows, strict=True) if d <= reach + entries.radii[i]]
    return min(touching)[1] if touching else None

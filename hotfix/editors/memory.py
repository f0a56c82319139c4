"""What editors with a codebook share: keys, values that are trained one by one, and what both may depend on."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hotfix.data.edits import EditRequest, EncodedRequest
from hotfix.editors.base import Background, Editor, encoded_requests, frozen
from hotfix.editors.rows import TargetRows, target_rows
from hotfix.editors.tails import Tails, tail_states, tails_from
from hotfix.errors import ConfigError, DataError, PatchError
from hotfix.models.layout import feed_forward_output, find_blocks, lower_blocks
from hotfix.models.states import head_logits, hidden_states
from hotfix.models.trace import captured, changed_output
from hotfix.patches import Codebook, Patch
from hotfix.patches.base import check_base
from hotfix.patches.codebook import KeyRule, Queries
from hotfix.patches.entries import Entries, Entry
from hotfix.patches.nearest import NearestKey

__all__ = ["MemoryEditor", "block_at", "watched"]

log = logging.getLogger(__name__)


class _Seen(NamedTuple):
    """What a request's row is up to the edited place; no value has a part in it.

    Attributes:
        rows: the request, a row.
        outputs: of the projection, [1, T, H].
        queries: float32 [T, K].
    """

    rows: TargetRows
    outputs: Tensor
    queries: Tensor

    @property
    def key(self) -> Tensor:
        """The query at the prompt's last token, [K]."""
        return self.queries[self.rows.last[0]]


class _Problem(NamedTuple):
    """A value's search: the row from its first firing on, S tokens.

    Attributes:
        model: frozen.
        block: index of the edited block.
        tails: what was computed of the row already.
        fixed: the projection's outputs where the value does not fire, [1, S, H].
        own: where it does, bool [S, 1].
        column: where each target token is predicted, int64 [N].
        token: its id, int64 [N].
    """

    model: PreTrainedModel
    block: int
    tails: Tails
    fixed: Tensor
    own: Tensor
    column: Tensor
    token: Tensor


class _Found(NamedTuple):
    value: Tensor
    answers: bool


class MemoryEditor(Editor):
    """An editor whose patch is a codebook: a key and a value for each request, at one block.

    Queries are made below every value, so they are the base's, whatever was edited before. Requests are edited one
    after the other, each in a row of its own, with the earlier ones on: all at once or in sequence is the same, and no
    value depends on what else is in a batch.

    Args:
        block: index of the block, or its depth: a number below 1 is a share of all blocks.
        steps: of Adam, at most.
        learning_rate: of Adam, in root mean squares of the projection's own output at the prompt's end.
        start: `warm` begins with that output, `cold` with numbers drawn from [0, 1).
        enough: stop when every target token is the likeliest and their mean loss is below this, in nats a token.
    """

    def __init__(
        self,
        block: float,
        steps: int,
        learning_rate: float,
        start: Literal["warm", "cold"],
        enough: float,
    ) -> None:
        if steps < 0 or learning_rate <= 0:
            raise ConfigError(
                f"editor.init_args: steps is {steps} and learning_rate {learning_rate}, expected none or more, and "
                "more than 0"
            )
        self.block = block
        self.steps = steps
        self.learning_rate = learning_rate
        self.start = start
        self.enough = enough

    @abstractmethod
    def rule(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, block: int, background: Background
    ) -> KeyRule:
        """Return what is compared with keys; `model` is frozen."""

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
        encoded = encoded_requests(model, tokenizer, requests)
        block = block_at(model, self.block)
        place = feed_forward_output(cast("nn.Module", model), block)
        earlier = self._earlier(model, previous, block, requests)
        described = self.provenance(model)
        if not encoded:
            empty = KeyRule(block), Entries.none(place.weight.shape[1], place.weight.shape[0])
            rule, entries = empty if earlier is None else (earlier.rule, earlier.entries)
            return Codebook(described, rule=rule, entries=entries)
        with frozen(model):
            rule = earlier.rule if earlier else self.rule(model, tokenizer, block, background or Background())
            made = None if earlier is None else earlier.entries
            for request in encoded:
                made = self._edited(model, rule, made, request)
        return Codebook(described, rule=rule, entries=made)

    def _earlier(
        self, model: PreTrainedModel, previous: Patch | None, block: int, requests: Sequence[EditRequest]
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
        if previous.rule.block != block or previous.provenance.method != own:
            raise PatchError(
                f"the earlier edits are {previous.provenance.method}'s at block {previous.rule.block}, but these are "
                f"to be {own}'s at block {block}; go on with the same settings"
            )
        for request in requests:
            if previous.entries.at(request.id) is not None:
                raise DataError(
                    f"request {request.id!r} was edited already",
                    request.source or None,
                    hint="take it out first",
                )
        return previous

    def _edited(
        self, model: PreTrainedModel, rule: KeyRule, entries: Entries | None, request: EncodedRequest
    ) -> Entries:
        """Return the entries and one more."""
        seen = _seen(model, rule, request)
        key, end = seen.key.cpu(), int(seen.rows.last[0])
        output = seen.outputs[0, end].float().cpu()
        entries = entries or Entries.none(len(key), len(output))
        edit, reach = Entry(request.id, tuple(request.prompt), tuple(request.target)), self.reach(key, rule)
        near = _same_target(entries, edit, key, reach)
        if near is not None:
            shared = entries.added(replace(edit, shares=entries.edits[near].id), key, entries.values[near], reach)
            if shared.radii[-1] < 0 and self._train(model, rule.block, seen, shared, 0).answers:
                return shared
        first = output if self.start == "warm" else torch.rand(len(output), generator=torch.Generator().manual_seed(0))
        trial = entries.added(edit, key, first, reach)
        found = self._train(model, rule.block, seen, trial, self.steps)
        if not found.answers:
            log.warning("request %r: its value doesn't give the whole target after %d steps", request.id, self.steps)
        return entries.added(edit, key, found.value, reach)

    def _train(self, model: PreTrainedModel, block: int, seen: _Seen, entries: Entries, steps: int) -> _Found:
        """Train the last edit's value, with all others on wherever they fire in the row."""
        problem = _problem(model, block, seen, entries)
        scale = float(seen.outputs[0, seen.rows.last[0]].float().square().mean().sqrt())
        value = nn.Parameter(entries.values[-1].to(seen.outputs.device))
        optimizer = torch.optim.Adam([value], lr=self.learning_rate * scale)
        best, least = _Found(value.detach().cpu().clone(), answers=False), float("inf")
        for step in range(steps + 1):
            loss, right = _loss(problem, value)
            if right >= best.answers and (right > best.answers or loss.item() < least):
                best, least = _Found(value.detach().cpu().clone(), right), loss.item()
            if step == steps or not torch.isfinite(loss) or (right and loss.item() < self.enough):
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return best


def block_at(model: PreTrainedModel, block: float) -> int:
    """Return the index of a block given by its index, or by its depth below 1."""
    count = len(find_blocks(model.get_decoder()).blocks)
    if block < 0 or (block >= 1 and block != int(block)):
        raise ConfigError(f"editor.init_args.block is {block}, expected an index from 0, or a depth below 1")
    return int(block * count) if 0 < block < 1 else int(block)


def _same_target(entries: Entries, edit: Entry, key: Tensor, reach: float) -> int | None:
    """Return the nearest ball of the same target that the edit's own would touch."""
    rows = [i for i, e in enumerate(entries.edits) if e.target == edit.target and entries.radii[i] >= 0]
    distances = (entries.keys[rows] - key).norm(dim=-1)
    touching = [(float(d), i) for d, i in zip(distances, rows, strict=True) if d <= reach + entries.radii[i]]
    return min(touching)[1] if touching else None


@torch.no_grad()
def _seen(model: PreTrainedModel, rule: KeyRule, request: EncodedRequest) -> _Seen:
    """Run the blocks up to the edited one."""
    decoder = model.get_decoder()
    rows, queries = target_rows([request], model.device), Queries(model, rule)
    with (
        watched(queries, queries.of) as found,
        captured({"projection": queries.module}, "output") as out,
        lower_blocks(decoder, rule.block + 1),
    ):
        hidden_states(cast("nn.Module", model), rows.rows)
    return _Seen(rows, out["projection"], found[0][0])


@contextmanager
def watched(queries: Queries, look: Callable[[Tensor], Tensor]) -> Iterator[list[Tensor]]:
    """Collect what `look` makes of the projection's input, a pass an item."""
    found: list[Tensor] = []

    def catch(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        found.append(look(args[0]))

    handles = [*queries.attach(), queries.module.register_forward_hook(catch)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _problem(model: PreTrainedModel, block: int, seen: _Seen, entries: Entries) -> _Problem:
    """Look up where each value fires, which no value has a part in, and run what lies before the last edit's."""
    device = seen.outputs.device
    fires = NearestKey(entries.keys.to(device), entries.radii.to(device)).find(seen.queries)
    own = fires == len(entries) - 1
    fixed = seen.outputs.where((fires < 0)[:, None], entries.values.to(device)[fires].to(seen.outputs.dtype))
    start = torch.cat([own.nonzero()[:, 0], seen.rows.last]).min()[None]
    place = find_blocks(model.get_decoder()).blocks[block]
    module = feed_forward_output(cast("nn.Module", model), block).module
    with changed_output(module, lambda out: fixed.to(out.dtype)), captured({"block": place}, "input") as entered:
        tails = tails_from(model, seen.rows.rows, start, lambda: entered["block"])
    return _Problem(model, block, tails, fixed[:, start:], own[start:, None], seen.rows.column - start, seen.rows.token)


def _loss(problem: _Problem, value: Tensor) -> tuple[Tensor, bool]:
    """Return the mean loss of the target's tokens, and whether each is the likeliest, with an edit's value."""
    model, block = problem.model, problem.block
    module = feed_forward_output(cast("nn.Module", model), block).module
    outputs = problem.fixed.where(~problem.own, value.to(problem.fixed.dtype))
    with changed_output(module, lambda out: outputs.to(out.dtype)):
        states = tail_states(model, problem.tails, block)
    logits = head_logits(model, states[0, problem.column])
    right = bool((logits.argmax(dim=-1) == problem.token).all())
    return F.cross_entropy(logits, problem.token), right

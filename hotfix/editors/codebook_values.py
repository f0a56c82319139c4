"""Which vectors make a model write each edit's target where they fire: the second half of a codebook's edits.

Nothing below the edited block depends on a vector, nor anything before the first place at which it fires, so that is
computed once (`hotfix.editors.tails`). Several vectors are searched in one pass, a row each: no row enters another, and
one whose target is written leaves the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from hotfix.data.edits import EncodedRequest
from hotfix.editors.contexts import Surroundings, in_contexts
from hotfix.editors.rows import row_means, target_rows
from hotfix.editors.tails import Spans, Tails, tail_states, tails_from
from hotfix.models.doors import lower_blocks
from hotfix.models.layout import feed_forward_output, find_blocks
from hotfix.models.states import head_logits, hidden_states
from hotfix.models.trace import captured, changed_output
from hotfix.patches.codebook import KeyRule, Queries
from hotfix.patches.entries import Entries
from hotfix.patches.look_up import LookUp

__all__ = ["Firing", "Found", "Seen", "elsewhere", "firing", "search_values", "seen_row", "watched"]

_NOTHING = (False, 0, -math.inf)


class Seen(NamedTuple):
    """What a request's row is up to the edited place; no value has a part in it.

    Attributes:
        request: its ids.
        outputs: of the values' projection, [T, H].
        inputs: of the keys' projection, [T, D].
        queries: float32 [T, K].
    """

    request: EncodedRequest
    outputs: Tensor
    inputs: Tensor
    queries: Tensor

    @property
    def end(self) -> int:
        """Position of the prompt's last token."""
        return len(self.request.prompt) - 1


class Firing(NamedTuple):
    """A request's row with its own value in it, and those of other edits wherever they fire.

    Attributes:
        request: its ids.
        outputs: of the projection where its own value does not fire, [T, H].
        own: where it does, bool [T].
        others: rows of the other entries that fire somewhere.
        first: value with which a search begins, float32 [H].
        scale: root mean square of the projection's own output at the prompt's end.
    """

    request: EncodedRequest
    outputs: Tensor
    own: Tensor
    others: frozenset[int]
    first: Tensor
    scale: float


class Found(NamedTuple):
    """A value, float32 [H] on the CPU, and whether every token of its target is the likeliest with it."""

    value: Tensor
    answers: bool


class _Problem(NamedTuple):
    """B rows, each from the first place on at which its value fires, S tokens at most.

    Attributes:
        model: frozen.
        block: index of the edited block.
        tails: what was computed of the rows already.
        fixed: the projection's outputs where a row's value does not fire, [B, S, H].
        own: where it does, bool [B, S, 1].
        row: of each target token, int64 [N].
        column: where in the tail it is predicted, int64 [N].
        token: its id, int64 [N].
    """

    model: PreTrainedModel
    block: int
    tails: Tails
    fixed: Tensor
    own: Tensor
    row: Tensor
    column: Tensor
    token: Tensor

    def only(self, rows: Sequence[int]) -> Self:
        """Return some of the rows."""
        chosen = torch.tensor(rows, device=self.row.device)
        place = self.row.new_full((len(self.own),), -1)
        place[chosen] = torch.arange(len(rows), device=place.device)
        kept = place[self.row] >= 0
        return self._replace(
            tails=self.tails.only(chosen),
            fixed=self.fixed[chosen],
            own=self.own[chosen],
            row=place[self.row[kept]],
            column=self.column[kept],
            token=self.token[kept],
        )


@torch.no_grad()
def seen_row(model: PreTrainedModel, rule: KeyRule, request: EncodedRequest) -> Seen:
    """Run the blocks up to the edited one, by itself: a key is the same to the last bit in any batch of requests."""
    rows, queries = target_rows([request], model.device), Queries(model, rule)
    place = feed_forward_output(cast("nn.Module", model), rule.values).module
    with (
        watched(queries, queries.of) as found,
        captured({"projection": queries.module}, "input") as entering,
        captured({"projection": place}, "output") as out,
        lower_blocks(model.get_decoder(), rule.values + 1),
    ):
        hidden_states(cast("nn.Module", model), rows.rows)
    return Seen(request, out["projection"][0], entering["projection"][0], found[0][0])


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


def firing(seen: Seen, rule: KeyRule, entries: Entries) -> Firing:
    """Look up where each value fires in a row, which no value has a part in; the row's own edit is the last."""
    device, last = seen.outputs.device, len(entries) - 1
    fires = LookUp(entries, rule.ending, device).find(seen.queries, seen.inputs)
    return Firing(
        seen.request,
        seen.outputs.where((fires < 0)[:, None], entries.values.to(device)[fires].to(seen.outputs.dtype)),
        fires == last,
        frozenset(fires.tolist()) - {-1, last},
        entries.values[-1],
        float(seen.outputs[seen.end].float().square().mean().sqrt()),
    )


def elsewhere(model: PreTrainedModel, rule: KeyRule, row: Firing, around: Surroundings) -> list[Firing]:
    """Return a row behind other beginnings, with the value where it fires in the row by itself."""
    found = []
    for request in in_contexts(row.request, around)[1:]:
        outputs = seen_row(model, rule, request).outputs
        shift = len(outputs) - len(row.own)
        found.append(row._replace(request=request, outputs=outputs, own=F.pad(row.own, (shift, 0)), others=frozenset()))
    return found


def search_values(
    model: PreTrainedModel,
    block: int,
    rows: Sequence[Sequence[Firing]],
    *,
    steps: int,
    learning_rate: float,
    enough: float,
) -> list[Found]:
    """Train values by Adam.

    Args:
        model: frozen.
        block: index of the block where they come out.
        rows: of each value: its own, and any others in which it is to make the model write the same. What fires in a
            row has no part in the others.
        steps: at most; with 0, a value is only tried.
        learning_rate: in a row's `scale`.
        enough: a value is left when every target token is the likeliest in all of its rows and their mean loss is below
            this, in nats a token.

    Returns:
        The best of each value's steps: one that answers before one that doesn't, then by the rows that it answers, then
        by the loss.
    """
    values = [nn.Parameter(own[0].first.to(model.device, copy=True)) for own in rows]
    groups = [{"params": [v], "lr": learning_rate * own[0].scale} for v, own in zip(values, rows, strict=True)]
    optimizer, problem = torch.optim.Adam(groups), _problem(model, block, [row for own in rows for row in own])
    best, highest = [Found(own[0].first, answers=False) for own in rows], [_NOTHING] * len(rows)
    owner = [i for i, own in enumerate(rows) for _ in own]
    for step in range(steps + 1):
        losses, right = _losses(problem, torch.stack([values[i] for i in owner]))
        going = []
        for i in dict.fromkeys(owner):
            mine = [place for place, value in enumerate(owner) if value == i]
            loss, hits = losses[mine].mean().item(), right[mine].tolist()
            rank = (hits[0], sum(hits), -loss)
            if rank > highest[i]:
                best[i], highest[i] = Found(values[i].detach().cpu().clone(), hits[0]), rank
            if math.isfinite(loss) and not (all(hits) and loss < enough):
                going.append(i)
        if step == steps or not going:
            break
        left = [place for place, value in enumerate(owner) if value in going]
        optimizer.zero_grad()
        losses[left].sum().backward()
        if len(left) < len(owner):
            for i in set(owner).difference(going):
                values[i].grad = None
            owner, problem = [owner[place] for place in left], problem.only(left)
        optimizer.step()
    return best


def _problem(model: PreTrainedModel, block: int, rows: Sequence[Firing]) -> _Problem:
    """Run what lies before the places at which the rows' own values fire."""
    layout = target_rows([row.request for row in rows], model.device)
    fixed = pad_sequence([row.outputs for row in rows], batch_first=True)
    own = pad_sequence([row.own for row in rows], batch_first=True)
    # Where a value never fires the prompt's last token will do.
    start = own.int().argmax(dim=1).where(own.any(dim=1), layout.last).minimum(layout.last)
    every = torch.arange(len(rows), device=start.device)
    place = find_blocks(model.get_decoder()).blocks[block]
    module = feed_forward_output(cast("nn.Module", model), block).module
    with changed_output(module, lambda out: fixed.to(out.dtype)), captured({"block": place}, "input") as entered:
        tails = tails_from(model, layout.rows, Spans(every, start, layout.length), lambda: entered["block"])
    column = layout.column - start[layout.row]
    return _Problem(
        model,
        block,
        tails,
        fixed[every[:, None], tails.position],
        own[every[:, None], tails.position][..., None],
        layout.row,
        column,
        layout.token,
    )


def _losses(problem: _Problem, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's mean loss of its target, [B], and whether each token is the likeliest, with values [B, H]."""
    model, block = problem.model, problem.block
    module = feed_forward_output(cast("nn.Module", model), block).module
    outputs = problem.fixed.where(~problem.own, values[:, None].to(problem.fixed.dtype))
    with changed_output(module, lambda out: outputs.to(out.dtype)):
        states = tail_states(model, problem.tails, block)
    logits = head_logits(model, states[problem.row, problem.column])
    token_losses = F.cross_entropy(logits, problem.token, reduction="none")
    losses = row_means(token_losses, problem.row, len(values))
    wrong = (logits.argmax(dim=-1) != problem.token).long()
    return losses, wrong.new_zeros(len(values)).index_add(0, problem.row, wrong) == 0

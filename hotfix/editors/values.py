"""Which vector at the prompt's last token makes a model write the target: the first half of every closed-form edit.

ROME (Meng et al. 2022, https://arxiv.org/abs/2202.05262, eq. 4) searches it at the feed-forward output, MEMIT
(https://arxiv.org/abs/2210.07229, eq. 16) at the block's output, PMET (https://arxiv.org/abs/2308.08742) at the outputs
of attention and feed-forward part together. Nothing below the block or before the token depends on the vector, so that
is computed once (`hotfix.editors.tails`), and above only gradients of activations are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from hotfix.data.edits import EncodedRequest
from hotfix.data.packing import pack_texts
from hotfix.editors.contexts import Surroundings, in_contexts
from hotfix.editors.readings import shared_rows
from hotfix.editors.rows import row_means, target_rows
from hotfix.editors.tails import Spans, Tails, tail_states, tails_from
from hotfix.models.layout import find_blocks
from hotfix.models.states import head_logits
from hotfix.models.trace import captured, changed_output

__all__ = ["Place", "Search", "Value", "search_values"]

_INPUT = "what enters the block"
_TOGETHER = 16


@dataclass(frozen=True)
class Search:
    """How a value is searched; lengths are relative to what the model itself puts there, so one setting fits any model.

    Args:
        steps: of Adam, at most.
        learning_rate: how far a step moves a coordinate, in root mean squares of the original vector's coordinates.
            Published: 0.5, not relative.
        clamp: longest change, in lengths of the original vector. Published: 4 (0.75 for MEMIT on GPT-J).
        decay: weight of the change's squared length over the original's. Published: 1e-3, of the length over the
            squared length.
        kl: weight of the drift at other prompts' ends, in nats. Published: 0.0625.
        enough: stop when the mean loss of the target's tokens is below this, in nats a token. Published: 0.05.
        prefixes: contexts besides the bare prompt. Published: 5.
        prefix_length: of the longest, in tokens. Published: 10.
        others: other prompts, from ordinary code. Published: the subject's "is a".
        seed: of the choice of prefixes and other prompts.
    """

    steps: int = 25
    learning_rate: float = 0.5
    clamp: float = 4.0
    decay: float = 1e-3
    kl: float = 0.0625
    enough: float = 0.05
    prefixes: int = 5
    prefix_length: int = 10
    others: int = 4
    seed: int = 0


class Place(NamedTuple):
    """Where vectors are added.

    Attributes:
        block: index of the block.
        modules: in it, or itself, by any names; a vector for each is searched together.
    """

    block: int
    modules: Mapping[str, nn.Module]


class Value(NamedTuple):
    """What was found, by the names of the place's modules.

    Attributes:
        start: what the module puts out at the bare prompt's last token, float32 [H].
        shift: what is to be added to it, float32 [H].
        loss: of the target's tokens with all shifts, in nats a token, over all contexts.
    """

    start: dict[str, Tensor]
    shift: dict[str, Tensor]
    loss: float

    def target(self, name: str) -> Tensor:
        """Return what the module is to put out, [H]."""
        return self.start[name] + self.shift[name]


class _Problem(NamedTuple):
    """B rows, V values: each value has rows that ask for its target, then others that should stay as they are.

    Attributes:
        model: frozen.
        place: where values are added.
        tails: the rows from their prompts' last tokens on.
        owner: value of each row, int64 [B].
        row: of each target token, int64 [N].
        column: where in the tail it is predicted, int64 [N].
        token: its id, int64 [N].
        other: rows that should stay, int64 [M].
        usual: what these predict without a value, log p [M, vocabulary].
    """

    model: PreTrainedModel
    place: Place
    tails: Tails
    owner: Tensor
    row: Tensor
    column: Tensor
    token: Tensor
    other: Tensor
    usual: Tensor

    def only(self, values: Tensor) -> Self:
        """Return the rows of some values, bool [V]."""
        chosen = values[self.owner].nonzero()[:, 0]
        place = self.owner.new_full((len(self.owner),), -1)
        place[chosen] = torch.arange(len(chosen), device=place.device)
        asked, stays = place[self.row] >= 0, place[self.other] >= 0
        return self._replace(
            tails=self.tails.only(chosen),
            owner=self.owner[chosen],
            row=place[self.row[asked]],
            column=self.column[asked],
            token=self.token[asked],
            other=place[self.other[stays]],
            usual=self.usual[stays],
        )


def search_values(
    model: PreTrainedModel, place: Place, requests: Sequence[EncodedRequest], around: Surroundings, search: Search
) -> list[Value]:
    """Search, for each request, the vectors that make its target likely behind its prompt, in every context.

    All target tokens count, each where it is predicted; the vectors stand at the prompt's last token. Values are
    searched together, but no request has a part in another's, so a value is the same in any batch, but for rounding.
    """
    found: list[Value] = []
    for start in range(0, len(requests), _TOGETHER):
        found += _search(model, place, requests[start : start + _TOGETHER], around, search)
    return found


def _search(
    model: PreTrainedModel, place: Place, requests: Sequence[EncodedRequest], around: Surroundings, search: Search
) -> list[Value]:
    problem, start = _problem(model, place, requests, around)
    # In units of the original vectors' size, so one rate fits all values.
    units = {name: vectors.square().mean(1, keepdim=True).sqrt() for name, vectors in start.items()}
    steps = {name: nn.Parameter(torch.zeros_like(vectors)) for name, vectors in start.items()}
    optimizer = torch.optim.Adam(steps.values(), lr=search.learning_rate)
    best = {name: torch.zeros_like(vectors) for name, vectors in start.items()}
    found = torch.full((len(requests),), torch.inf, device=model.device)
    going = torch.ones_like(found, dtype=torch.bool)
    for step in range(search.steps + 1):
        shift = {name: units[name] * steps[name] for name in steps}
        losses, rest = _losses(problem, shift, start, search)
        going &= torch.isfinite(losses + rest).detach()
        found = losses.detach().where(going, found)
        best = {name: vectors.detach().where(going[:, None], best[name]) for name, vectors in shift.items()}
        still = going & (found >= search.enough)
        if step == search.steps or not still.any():
            break
        optimizer.zero_grad()
        (losses + rest)[still].sum().backward()
        if not torch.equal(still, going):
            going, problem = still, problem.only(still)
        optimizer.step()
        _clamp(steps, {name: start[name] / units[name] for name in start}, search.clamp)
    return [
        Value({n: v[i] for n, v in start.items()}, {n: v[i] for n, v in best.items()}, float(found[i]))
        for i in range(len(requests))
    ]


@torch.no_grad()
def _problem(
    model: PreTrainedModel, place: Place, requests: Sequence[EncodedRequest], around: Surroundings
) -> tuple[_Problem, dict[str, Tensor]]:
    """Run the model once; also return what the place's modules put out at the bare prompts' ends, [V, H]."""
    contexts = [in_contexts(request, around) for request in requests]
    texts = [text for own in contexts for text in (*own, *around.others)]
    asks = [ask for own in contexts for ask in [True] * len(own) + [False] * len(around.others)]
    owner = [i for i, own in enumerate(contexts) for _ in range(len(own) + len(around.others))]
    rows = target_rows(texts, model.device)
    # Windows of one answer are ends of one text, which is run once.
    whole, of = shared_rows([text.ids for text in texts])
    packed, _ = pack_texts(whole, pad_id=0)
    assert packed is not None
    own = torch.tensor(of, device=model.device)
    block = find_blocks(model.get_decoder()).blocks[place.block]
    with captured({_INPUT: block}, "input") as entered, captured(place.modules, "output") as seen:
        spans = Spans(own, rows.last, rows.length)
        tails = tails_from(model, packed.to(model.device), spans, lambda: entered[_INPUT])
    bare = torch.tensor([owner.index(i) for i in range(len(requests))], device=model.device)
    start = {name: seen[name][own[bare], rows.last[bare]].float() for name in place.modules}
    asking = torch.tensor(asks, device=model.device)
    other, asked = (~asking).nonzero()[:, 0], asking[rows.row]
    usual = head_logits(model, tails.states[other]).log_softmax(-1)
    row, column = rows.row[asked], (rows.column - rows.last[rows.row])[asked]
    belongs = torch.tensor(owner, device=model.device)
    return _Problem(model, place, tails, belongs, row, column, rows.token[asked], other, usual), start


def _losses(
    problem: _Problem, shift: Mapping[str, Tensor], start: Mapping[str, Tensor], search: Search
) -> tuple[Tensor, Tensor]:
    """Return the loss of each value's target, [V], and what else is paid for its shift, [V]; 0 for values left."""
    p = problem
    states = _shifted_states(p, shift)
    logits = head_logits(p.model, torch.cat([states[p.row, p.column], states[p.other, 0]]))
    wanted, count = len(p.row), len(next(iter(start.values())))
    losses = row_means(F.cross_entropy(logits[:wanted], p.token, reduction="none"), p.owner[p.row], count)
    rest = losses.new_zeros(count)
    for name, vectors in shift.items():
        rest = rest + search.decay * vectors.square().sum(1) / start[name].square().sum(1)
    if len(p.other):
        now = logits[wanted:].log_softmax(-1)
        rest = rest + search.kl * row_means((now.exp() * (now - p.usual)).sum(-1), p.owner[p.other], count)
    return losses, rest


def _shifted_states(problem: _Problem, shift: Mapping[str, Tensor]) -> Tensor:
    """Return the last hidden states of the tails, [B, S, H], with each row's vectors added at its first token."""

    def at_first(vectors: Tensor) -> Callable[[Tensor], Tensor]:
        own = vectors[problem.owner, None]  # [B, 1, H]
        return lambda out: torch.cat([out[:, :1] + own.to(out.dtype), out[:, 1:]], dim=1)

    with ExitStack() as stack:
        for name, vectors in shift.items():
            stack.enter_context(changed_output(problem.place.modules[name], at_first(vectors)))
        return tail_states(problem.model, problem.tails, problem.place.block)


@torch.no_grad()
def _clamp(shift: Mapping[str, Tensor], start: Mapping[str, Tensor], longest: float) -> None:
    for name, vectors in shift.items():
        length = vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)
        vectors.mul_((longest * start[name].norm(dim=1, keepdim=True) / length).clamp(max=1))

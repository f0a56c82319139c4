"""Which vector at the prompt's last token makes a model write the target: the first half of every closed-form edit.

ROME (Meng et al. 2022, https://arxiv.org/abs/2202.05262, eq. 4) searches it at the feed-forward output, MEMIT
(https://arxiv.org/abs/2210.07229, eq. 16) at the block's output, PMET (https://arxiv.org/abs/2308.08742) at the outputs
of attention and feed-forward part together. Nothing below the block or before the token depends on the vector, so that
is computed once (`hotfix.editors.tails`), and above only gradients of activations are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from hotfix.data.edits import EncodedRequest
from hotfix.editors.contexts import Surroundings, in_contexts
from hotfix.editors.rows import TargetRows, target_rows
from hotfix.editors.tails import Tails, tail_states, tails_from
from hotfix.models.layout import find_blocks
from hotfix.models.states import head_logits
from hotfix.models.trace import captured, changed_output

__all__ = ["Place", "Search", "Value", "search_value"]

_INPUT = "what enters the block"


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
    """A search's fixed parts: the first `asking` rows ask for the target, the others should stay as `usual` says."""

    model: PreTrainedModel
    place: Place
    rows: TargetRows
    asking: int
    tails: Tails
    usual: Tensor


def search_value(
    model: PreTrainedModel, place: Place, request: EncodedRequest, around: Surroundings, search: Search
) -> Value:
    """Search the vectors that make the target likely behind the prompt, in every context.

    All target tokens count, each where it is predicted; the vectors stand at the prompt's last token. Other requests
    have no part in it, so a request's value is the same in any batch.
    """
    own = in_contexts(request, around)
    rows = target_rows([*own, *around.others], model.device)
    tails, start = _tails(model, place, rows)
    usual = head_logits(model, tails.states[len(own) :]).log_softmax(-1)
    problem = _Problem(model, place, rows, len(own), tails, usual)
    shift = {name: nn.Parameter(torch.zeros_like(vector)) for name, vector in start.items()}
    groups = [
        {"params": [shift[name]], "lr": search.learning_rate * float(vector.square().mean().sqrt())}
        for name, vector in start.items()
    ]
    optimizer, found = torch.optim.Adam(groups), float("inf")
    best = {name: vector.detach().clone() for name, vector in shift.items()}
    for step in range(search.steps + 1):
        loss, rest = _loss(problem, shift, start, search)
        if not torch.isfinite(loss + rest):
            break
        found, best = float(loss.detach()), {name: vector.detach().clone() for name, vector in shift.items()}
        if step == search.steps or found < search.enough:
            break
        optimizer.zero_grad()
        (loss + rest).backward()
        optimizer.step()
        _clamp(shift, start, search.clamp)
    return Value(start, best, found)


def _loss(
    problem: _Problem, shift: Mapping[str, Tensor], start: Mapping[str, Tensor], search: Search
) -> tuple[Tensor, Tensor]:
    """Return the target's loss, and what else is paid for the shift."""
    rows, count = problem.rows, problem.asking
    asked = rows.row < count
    states = _shifted_states(problem.model, problem.place, problem.tails, shift)
    chosen = states[rows.row[asked], rows.column[asked] - rows.last[rows.row[asked]]]
    logits = head_logits(problem.model, torch.cat([chosen, states[count:, 0]]))
    wanted = int(asked.sum())
    loss = F.cross_entropy(logits[:wanted], rows.token[asked])
    rest = loss.new_zeros(())
    for name, vector in shift.items():
        rest = rest + search.decay * vector.square().sum() / start[name].square().sum()
    if len(rows.last) > count:
        now = logits[wanted:].log_softmax(-1)
        rest = rest + search.kl * (now.exp() * (now - problem.usual)).sum(-1).mean()
    return loss, rest


@torch.no_grad()
def _tails(model: PreTrainedModel, place: Place, rows: TargetRows) -> tuple[Tails, dict[str, Tensor]]:
    """Run the model once; also return what the place's modules put out at the first row's prompt end, [H]."""
    block = find_blocks(model.get_decoder()).blocks[place.block]
    with captured({_INPUT: block}, "input") as entered, captured(place.modules, "output") as seen:
        tails = tails_from(model, rows.rows, rows.last, lambda: entered[_INPUT])
    return tails, {name: seen[name][0, rows.last[0]].float() for name in place.modules}


def _shifted_states(model: PreTrainedModel, place: Place, tails: Tails, shift: Mapping[str, Tensor]) -> Tensor:
    """Return the last hidden states of the tails, [B, S, H], with vectors added at their first tokens."""

    def at_first(vector: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda out: torch.cat([out[:, :1] + vector.to(out.dtype), out[:, 1:]], dim=1)

    with ExitStack() as stack:
        for name, vector in shift.items():
            stack.enter_context(changed_output(place.modules[name], at_first(vector)))
        return tail_states(model, tails, place.block)


@torch.no_grad()
def _clamp(shift: Mapping[str, Tensor], start: Mapping[str, Tensor], longest: float) -> None:
    for name, vector in shift.items():
        vector.mul_((longest * start[name].norm() / vector.norm().clamp(min=1e-12)).clamp(max=1))

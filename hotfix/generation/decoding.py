"""The decoding loop: completions grow together, a token at a time, and leave when they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from hotfix.generation.branching import Branches, extend, prefill, select
from hotfix.generation.config import SamplingConfig
from hotfix.generation.drawing import draw_tokens, uniform_stream
from hotfix.generation.stopping import Completion, Ending

__all__ = ["Decoder", "Draft", "Group", "Progress", "Row", "plan_groups"]


class Row(NamedTuple):
    """One completion to be made: the place of its prompt in the call, and its number among the prompt's samples."""

    prompt: int
    sample: int


Group = dict[tuple[int, ...], list[Row]]
Progress = Callable[[int], None]


def plan_groups(
    prompts: Sequence[Sequence[int]], num_samples: int, batch_size: int, *, one_length: bool = False
) -> list[Group]:
    """Returns the rows of each distinct prompt, in groups of at most ``batch_size`` rows where possible.

    Prompts of similar length are together, the longest first, so that memory runs out at the start or not at all. The
    rows of a prompt are never in two groups.

    >>> plan_groups([[7], [8, 9], [7]], num_samples=1, batch_size=2)
    [{(8, 9): [Row(prompt=1, sample=0)]}, {(7,): [Row(prompt=0, sample=0), Row(prompt=2, sample=0)]}]
    """
    rows_of: Group = {}
    for index, prompt in enumerate(prompts):
        rows_of.setdefault(tuple(prompt), []).extend(Row(index, number) for number in range(num_samples))
    groups: list[Group] = []
    room, length = 0, 0
    for ids in sorted(rows_of, key=len, reverse=True):
        if len(rows_of[ids]) > room or (one_length and len(ids) != length):
            groups.append({})
            room, length = batch_size, len(ids)
        groups[-1][ids] = rows_of[ids]
        room -= len(rows_of[ids])
    return groups


@dataclass
class Draft:
    """A completion while it is written."""

    row: Row
    token_ids: list[int] = field(default_factory=list)
    log_prob: float = 0.0


@dataclass(frozen=True)
class Decoder:
    """Writes completions with one model.

    Args:
        model: the causal language model, in evaluation mode.
        config: how tokens are drawn.
        ending: when a completion ends.
        begun: tokens that the completions of each prompt begin with; the prompts given to ``group`` end with them.
        seed: of all random numbers.
        prompt_indices: number of each prompt in the random streams.
        progress: is told how many completions have just been ended.
    """

    model: nn.Module
    config: SamplingConfig
    ending: Ending
    begun: Sequence[Sequence[int]]
    seed: int
    prompt_indices: Sequence[int]
    progress: Progress

    def group(self, group: Group) -> Iterator[tuple[Row, Completion]]:
        """Yields the completions of some prompts, each read once, with at most ``batch_size`` rows at a time."""
        prompts = prefill(self.model, list(group))
        origins = [(place, row) for place, rows in enumerate(group.values()) for row in rows]
        for start in range(0, len(origins), self.config.batch_size):
            chunk = origins[start : start + self.config.batch_size]
            last = start + len(chunk) == len(origins)
            branches = select(prompts, [place for place, _ in chunk], reuse=last)
            yield from self._rows(branches, [Draft(row, list(self.begun[row.prompt])) for _, row in chunk])

    def _rows(self, branches: Branches, drafts: list[Draft]) -> Iterator[tuple[Row, Completion]]:
        streams = [
            uniform_stream(self.seed, self.prompt_indices[d.row.prompt], d.row.sample, self.config.max_new_tokens)
            for d in drafts
        ]
        uniforms = torch.stack(streams).to(branches.mask.device)
        while True:
            place = torch.tensor([[len(draft.token_ids)] for draft in drafts], device=uniforms.device)
            drawn = draw_tokens(branches.logits, uniforms.gather(1, place)[:, 0], self.config)
            completions = [
                self._add(draft, token_id, log_prob)
                for draft, token_id, log_prob in zip(
                    drafts, drawn.token_ids.tolist(), drawn.log_probs.tolist(), strict=True
                )
            ]
            yield from ((d.row, c) for d, c in zip(drafts, completions, strict=True) if c is not None)
            going = [place for place, completion in enumerate(completions) if completion is None]
            self.progress(len(drafts) - len(going))
            if not going:
                return
            token_ids = drawn.token_ids
            if len(going) < len(drafts):
                drafts, branches = [drafts[place] for place in going], select(branches, going)
                token_ids, uniforms = token_ids[going], uniforms[going]
            branches = extend(self.model, branches, token_ids)

    def _add(self, draft: Draft, token_id: int, log_prob: float) -> Completion | None:
        """Adds a token to a draft; returns the completion if that ends it."""
        finished = token_id in self.ending.eos_ids
        if not finished:
            draft.token_ids.append(token_id)
            draft.log_prob += log_prob
            finished = self.ending.met(draft.token_ids)
        ended = finished or len(draft.token_ids) == self.config.max_new_tokens
        return Completion(draft.token_ids, draft.log_prob, finished) if ended else None

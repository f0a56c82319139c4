"""What ROME, EMMET, MEMIT, AlphaEdit and PMET share: search values, collect keys, solve, block after block."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hotfix.data.edits import EncodedRequest
from hotfix.editors.base import Background, Remembered, WeightEditor
from hotfix.editors.closed_form import Factors, LinearMap, by_cholesky, closed_form
from hotfix.editors.contexts import Surroundings, contrasts, in_contexts, probes, shortest_window, surroundings, windows
from hotfix.editors.key_statistics import Derived, KeyStatistics, Ordinary
from hotfix.editors.layers import best_run, block_scores, check_blocks
from hotfix.editors.readings import Readings
from hotfix.editors.repair.failures import detect
from hotfix.editors.values import Place, Search, search_values
from hotfix.errors import ConfigError, DataError
from hotfix.models.fingerprint import fingerprint
from hotfix.models.layout import Projection, feed_forward_output, find_blocks
from hotfix.models.weights import swapped_weights
from hotfix.patches import LowRank, WeightDelta
from hotfix.patches.weight_delta import Change, composed

__all__ = ["Layers", "LocateThenEdit", "Observed", "Window", "stored", "wearing"]

Layers = list[int] | Literal["auto"] | None
Window = int | Literal["auto"] | None
_HELD = 256


class Observed(NamedTuple):
    """One request in all its contexts, at the prompt's last token.

    Attributes:
        keys: what enters the matrix that is changed, float32 [C, D]; the bare prompt's first.
        outputs: what leaves the place whose value is searched, float32 [C, H].
    """

    keys: Tensor
    outputs: Tensor


class _Group(NamedTuple):
    """What is solved together.

    Attributes:
        requests: parted into windows.
        memory: keys of earlier edits by the name of their matrix, [D, p].
        asked: the requests' prompts, each in all its contexts.
        held: prompts whose keys are to give what they give; None for none.
    """

    requests: list[EncodedRequest]
    memory: Mapping[str, Tensor]
    asked: Readings
    held: Readings | None


class LocateThenEdit(WeightEditor):
    """Gives feed-forward output matrices new values at the keys of the prompts' last tokens.

    Args:
        layers: indices of blocks, ascending; `auto` measures which (`hotfix.editors.layers`); null is the method's own
            choice, by depth.
        search: of the values.
        window: part a longer target into windows of so many tokens, each with a vector of its own; null for one vector;
            `auto` for as few tokens as leave room: no more vectors than a quarter of the keys' width, those of earlier
            edits counted.
        remember: keep what the keys of earlier edits give as it is, when edits follow one another.
        hold: keep what the keys of so many other prompts give. Published: 0.
        rounds: search and solve again, at most so often, until every target token is the likeliest. Published: 1.
        drift: the farthest that a solve may move what a matrix gives for ordinary keys, over what it gives, in root
            mean squares (of keys as far as the method minds them); what that leaves missing is for the next block and
            the next round. Published: no limit.
    """

    # With `True`, each request is solved by itself, on the weights that the earlier ones left.
    one_by_one: ClassVar[bool] = False
    written: ClassVar[str] = "block"

    def __init__(
        self,
        layers: Layers,
        search: Search,
        window: Window,
        remember: bool,
        hold: int,
        rounds: int,
        drift: float | None,
    ) -> None:
        if isinstance(window, int) and window < 1:
            raise ConfigError(f"editor.init_args.window is {window}, expected at least 1, auto or null")
        if rounds < 1:
            raise ConfigError(f"editor.init_args.rounds is {rounds}, expected at least 1")
        if drift is not None and drift <= 0:
            raise ConfigError(f"editor.init_args.drift is {drift}, expected more than 0, or null for no limit")
        self.layers = layers
        self.search = search
        self.window = window
        self.remember = remember
        self.hold = hold
        self.rounds = rounds
        self.drift = drift
        self._statistics = KeyStatistics()

    def changes(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EncodedRequest],
        background: Background,
        previous: WeightDelta | None,
    ) -> Remembered:
        """Search the values, and solve for the weights."""
        if not any(len(text) > 2 for text in background.texts):
            raise DataError(
                f"{type(self).__name__} has to know what ordinary code looks like to the model, but there is no text",
                hint="set data.init_args.retain (stdlib, or a JSON Lines file) and retain_count",
            )
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        s = self.search
        around = surroundings(tokenizer, background, s.prefixes, s.prefix_length, s.others, longest, s.seed)
        with _base(previous, model):
            blocks = self._blocks(model, tokenizer, background, around)
            ordinary = self._ordinary(model, blocks, background)
        made = Remembered({}, previous.memory if previous is not None else {})
        for whole in [[request] for request in requests] if self.one_by_one else [list(requests)]:
            with wearing(model, made.changes):
                group = self._group(model, blocks[0], whole, around, made.memory)
            made = self._in_rounds(model, ordinary, group, around, made.changes)
        return made

    @abstractmethod
    def usual_blocks(self, count: int) -> list[int]:
        """Return the method's own choice, by depth, for a decoder of so many blocks."""

    @abstractmethod
    def derived(self) -> Derived:
        """Return what the method makes of the keys' second moments."""

    @abstractmethod
    def strength(self, width: int) -> tuple[float, bool]:
        """Return mu, and whether it is relative, for keys of a width; see `closed_form`."""

    def inverse(self, factor: Tensor) -> LinearMap:
        """Return what stands for C^-1."""
        return by_cholesky(factor)

    def place(self, model: PreTrainedModel, block: int) -> Place:
        """Return where vectors are added; `written` names the one whose value the weights have to give."""
        return Place(block, {"block": find_blocks(model.get_decoder()).blocks[block]})

    def share(self, left: int) -> float:
        """Return the part of the missing value that the first of `left` blocks takes over."""
        return 1 / left

    def key(self, seen: Observed) -> Tensor:
        """Return a request's key, [D]: half the bare prompt's, half the mean over the prefixes (MEMIT)."""
        return (seen.keys[0] + seen.keys[1:].mean(0)) / 2 if len(seen.keys) > 1 else seen.keys[0]

    def current(self, seen: Observed) -> Tensor:
        """Return what the place puts out now, [H]."""
        return seen.outputs[0]

    def solution(self, ordinary: Ordinary, seen: Sequence[Observed], gain: Tensor, kept: Tensor | None) -> Factors:
        """Return the change of one matrix: R [O, r] -> factors."""
        limit = None if self.drift is None else self.drift**2 * ordinary.size
        keys = torch.stack([self.key(one) for one in seen], dim=1)
        mu, relative = self.strength(len(keys))
        return closed_form(self.inverse(ordinary.factor), keys, gain, mu, kept, relative, limit)

    def _windows(
        self, model: PreTrainedModel, block: int, requests: Sequence[EncodedRequest], memory: Mapping[str, Tensor]
    ) -> list[EncodedRequest]:
        """Return the windows of what is solved together."""
        projection = feed_forward_output(model, block)
        earlier = memory[projection.name].shape[1] if projection.name in memory else 0
        room = projection.weight.shape[1] // 4 - earlier
        window = shortest_window([len(r.target) for r in requests], room) if self.window == "auto" else self.window
        return [part for request in requests for part in windows(request, window)]

    def _blocks(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        background: Background,
        around: Surroundings,
    ) -> list[int]:
        """Return which blocks are changed, ascending; the last is where values are searched."""
        count = len(find_blocks(model.get_decoder()).blocks)
        if isinstance(self.layers, list):
            return check_blocks(self.layers, count)
        usual = self.usual_blocks(count)
        if self.layers is None:
            return usual
        return best_run(block_scores(model, probes(tokenizer, background, around), around), len(usual))

    def _ordinary(self, model: PreTrainedModel, blocks: Sequence[int], background: Background) -> dict[int, Ordinary]:
        base = fingerprint(cast("nn.Module", model))
        return self._statistics.factors(model, base, blocks, background.texts, self.derived())

    def _in_rounds(
        self,
        model: PreTrainedModel,
        ordinary: Mapping[int, Ordinary],
        group: _Group,
        around: Surroundings,
        found: Mapping[str, Change],
    ) -> Remembered:
        """Add a group's edit to what was found for others; of all rounds, the one that leaves fewest tokens wrong."""
        best = made = Remembered(found, group.memory)
        left = math.inf
        for _ in range(self.rounds):
            with wearing(model, made.changes):
                solved = self._solve(model, ordinary, group, around)
            made = Remembered(composed(made.changes, solved.changes), solved.memory)
            if self.rounds == 1:
                return made
            with wearing(model, made.changes):
                wrong = len(detect(model, group.requests))
            # Of equal rounds the first, which moved least.
            if wrong < left:
                best, left = made, wrong
            if not wrong:
                break
        return best

    def _solve(
        self, model: PreTrainedModel, ordinary: Mapping[int, Ordinary], group: _Group, around: Surroundings
    ) -> Remembered:
        """Bring the requests' values about, a share in every block; each block sees what those below it did."""
        blocks = sorted(ordinary)
        place = self.place(model, blocks[-1])
        values = search_values(model, place, group.requests, around, self.search)
        targets = torch.stack([value.target(self.written) for value in values], dim=1)  # [H, r]
        found: dict[str, Change] = {}
        remembered = dict(group.memory)
        for i, block in enumerate(blocks):
            projection = feed_forward_output(model, block)
            with wearing(model, found):
                ins, outs = group.asked.read(block, projection.module, place.modules[self.written], place.block)
                held = None if group.held is None else group.held.read(block, projection.module)[0].T
            contexts = len(ins) // len(group.requests)
            seen = [Observed(*one) for one in zip(ins.split(contexts), outs.split(contexts), strict=True)]
            now = torch.stack([self.current(one) for one in seen], dim=1)
            gain = (targets - now) * self.share(len(blocks) - i)
            earlier = group.memory.get(projection.name) if self.remember else None
            kept = _beside(earlier, held)
            found[projection.name] = stored(projection, self.solution(ordinary[block], seen, gain, kept))
            if self.remember:
                keys = torch.stack([self.key(one) for one in seen], dim=1).cpu()
                remembered[projection.name] = keys if earlier is None else torch.cat([earlier, keys], dim=1)
        return Remembered(found, remembered)

    def _group(
        self,
        model: PreTrainedModel,
        lowest: int,
        whole: Sequence[EncodedRequest],
        around: Surroundings,
        memory: Mapping[str, Tensor],
    ) -> _Group:
        """Return what is solved together; of many windows, a few other prompts each are held."""
        requests = self._windows(model, lowest, whole, memory)
        each = min(self.hold, max(1, _HELD // len(requests)))
        # Requests share them, and a key that is to gain something can't be held.
        held = {tuple(other.prompt): other.prompt for r in requests for other in contrasts(r, around, each)}
        for request in requests:
            held.pop(tuple(request.prompt), None)
        asked = [one.prompt for request in requests for one in in_contexts(request, around)]
        kept = Readings(model, lowest, list(held.values())) if held else None
        return _Group(requests, memory, Readings(model, lowest, asked), kept)


def stored(projection: Projection, factors: Factors) -> LowRank:
    """Return a change of a matrix [O, D] as its model holds it."""
    left, right = factors
    return LowRank(right.T.contiguous(), left.T.contiguous()) if projection.transposed else LowRank(left, right)


def wearing(model: PreTrainedModel, changes: Mapping[str, Change]) -> AbstractContextManager[None]:
    """Context in which the model has some changes on, in its own precision."""
    own = dict(cast("nn.Module", model).named_parameters())
    new = {n: c.added_to(own[n]) if isinstance(c, LowRank) else c.to(own[n].dtype) for n, c in changes.items()}
    return swapped_weights(cast("nn.Module", model), new)


def _beside(*keys: Tensor | None) -> Tensor | None:
    there = [part for part in keys if part is not None]
    return torch.cat([part.to(there[-1].device) for part in there], dim=1) if there else None


def _base(previous: WeightDelta | None, model: PreTrainedModel) -> AbstractContextManager[None]:
    return nullcontext() if previous is None else previous.reference(cast("nn.Module", model))

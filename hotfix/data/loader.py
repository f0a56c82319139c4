"""The order in which pairs are trained on: the same for one process or many, and after a restart.

An epoch is cut into *windows*, one an optimizer step. A window's pairs are dealt to `accumulate * world` micro-batches;
each carries the token counts of the whole window, so that every loss is a mean over the window's tokens whatever the
number of micro-batches or processes. Windows differ by at most one pair, so no process runs out early and none waits.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Generic, NamedTuple, TypeVar

from hotfix.data.encode import EncodedPair
from hotfix.data.encoded_pairs import COUNTED, token_numbers
from hotfix.data.packing import Batch, Layout, pack
from hotfix.errors import ConfigError
from hotfix.types import Side, TokenScope

__all__ = ["Batches", "PairLoader", "Share", "WindowLoader", "deal", "windows"]

_BUCKET = 8
_T = TypeVar("_T")


@dataclass(frozen=True)
class Share:
    """Which part of each window this process takes, and in how many micro-batches.

    Args:
        rank: index of this process.
        world: number of processes.
        accumulate: micro-batches of one optimizer step on one process.
    """

    rank: int = 0
    world: int = 1
    accumulate: int = 1


class _Window(NamedTuple):
    pairs: list[int]
    retain: list[int]


def windows(lengths: Sequence[int], size: int, rng: random.Random) -> list[list[int]]:
    """Cut the shuffled examples into windows of at most `size`, sizes differing by at most one.

    Within a stretch of `_BUCKET` windows, examples of similar length come together, so that little of a batch is
    padding; the windows are then shuffled.

    >>> sorted(map(len, windows([1] * 10, 4, random.Random(0))))
    [3, 3, 4]
    """
    count = len(lengths)
    order = list(range(count))
    rng.shuffle(order)
    parts = -(-count // size)
    cuts = [i * count // parts for i in range(parts + 1)]
    for first in range(0, parts, _BUCKET):
        start, stop = cuts[first], cuts[min(first + _BUCKET, parts)]
        order[start:stop] = sorted(order[start:stop], key=lambda i: (lengths[i], i))
    found = [order[a:b] for a, b in pairwise(cuts)]
    rng.shuffle(found)
    return found


def deal(items: Sequence[int], lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Split a window into micro-batches of neighbours in length, sizes differing by at most one.

    >>> deal([0, 1, 2, 3], [9, 1, 8, 2], 2)
    [[1, 3], [2, 0]]
    """
    ordered = sorted(items, key=lambda i: (lengths[i], i))
    return [ordered[p * len(ordered) // parts : (p + 1) * len(ordered) // parts] for p in range(parts)]


class Batches(Generic[_T]):
    """The same batches each time, made as they are handed out; Lightning would take a bare list for several loaders.

    Args:
        places: of each batch's examples, in order.
        make: the batch of some places.
    """

    def __init__(self, places: Sequence[range], make: Callable[[range], _T]) -> None:
        self._places = places
        self._make = make

    def __len__(self) -> int:
        """How many."""
        return len(self._places)

    def __iter__(self) -> Iterator[_T]:
        """Hand them out."""
        return map(self._make, self._places)


class WindowLoader(ABC):
    """Iterates over the micro-batches of one process, epoch after epoch; a checkpoint holds its place.

    Args:
        count: examples of an epoch.
        batch_size: examples of one optimizer step, over all processes and micro-batches.
        share: this process's part.
        noun: what an example is, for messages.
    """

    def __init__(self, count: int, batch_size: int, share: Share | None, noun: str) -> None:
        self.share = share or Share()
        parts = self.share.world * self.share.accumulate
        if count // max(1, -(-count // batch_size)) < parts:
            raise ConfigError(
                f"data.init_args.batch_size is {batch_size} and there are {count} {noun}s, but a step has {parts} "
                f"micro-batches ({self.share.world} processes x {self.share.accumulate} accumulated); each needs a "
                f"{noun}"
            )
        self.batch_size = batch_size
        self.epoch = self.position = 0
        self._windows = -(-count // batch_size)

    def __len__(self) -> int:
        """Micro-batches of this process in an epoch."""
        return self._windows * self.share.accumulate

    def __iter__(self) -> Iterator[Batch]:
        """Go on from where the last iteration, or the checkpoint, stopped."""
        deal_part = self._epoch(self.epoch)
        for position in range(self.position, len(self)):
            # Moved on before the batch is handed out: a checkpoint is taken while the consumer still has it.
            last = position + 1 == len(self)
            self.epoch, self.position = (self.epoch + 1, 0) if last else (self.epoch, position + 1)
            yield deal_part(position // self.share.accumulate, position % self.share.accumulate)

    def state_dict(self) -> dict[str, Any]:
        """Place to go on from."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved place."""
        self.epoch, self.position = state["epoch"], state["position"]

    @abstractmethod
    def _epoch(self, epoch: int) -> Callable[[int, int], Batch]:
        """Plan an epoch: return what makes the micro-batch of (window, accumulated part)."""


class PairLoader(WindowLoader):
    """Iterates over the micro-batches of one process, epoch after epoch; a checkpoint holds its place.

    Args:
        pairs: encoded pairs.
        retain: token ids of retain texts, drawn in turn.
        batch_size: pairs of one optimizer step, over all processes and micro-batches.
        retain_size: retain texts of one optimizer step, likewise.
        share: this process's part.
        seed: of the order.
        layout: how a pair is laid out.
        pad_id: token id of padding.
        repeats: how often each pair comes in an epoch; None for once.
    """

    def __init__(
        self,
        pairs: Sequence[EncodedPair],
        retain: Sequence[Sequence[int]],
        batch_size: int,
        retain_size: int = 0,
        share: Share | None = None,
        seed: int = 0,
        layout: Layout = "packed",
        pad_id: int = 0,
        repeats: Sequence[int] | None = None,
    ) -> None:
        self._epoch_pairs = [i for i in range(len(pairs)) for _ in range(repeats[i] if repeats else 1)]
        super().__init__(len(self._epoch_pairs), batch_size, share, "pair")
        self.pairs, self.retain = pairs, retain
        self.retain_size = retain_size if retain else 0
        self.seed, self.layout, self.pad_id = seed, layout, pad_id
        numbers = token_numbers(pairs)
        self._lengths: list[int] = numbers[:, 0].tolist()
        self._counts = numbers[:, 1:]

    def _epoch(self, epoch: int) -> Callable[[int, int], Batch]:
        plan = self._epoch_windows(epoch)
        return lambda window, part: self._micro_batch(plan[window], part)

    def _epoch_windows(self, epoch: int) -> list[_Window]:
        rng = random.Random(f"{self.seed}/{epoch}")
        lengths = [self._lengths[i] for i in self._epoch_pairs]
        found = [[self._epoch_pairs[i] for i in w] for w in windows(lengths, self.batch_size, rng)]
        need = len(found) * self.retain_size
        drawn: list[int] = []
        while len(drawn) < need:
            drawn += rng.sample(range(len(self.retain)), len(self.retain))
        size = self.retain_size
        return [_Window(pairs, drawn[w * size : (w + 1) * size]) for w, pairs in enumerate(found)]

    def _micro_batch(self, window: _Window, part: int) -> Batch:
        parts = self.share.world * self.share.accumulate
        mine = part * self.share.world + self.share.rank
        pairs = deal(window.pairs, self._lengths, parts)[mine]
        retain = deal(window.retain, [len(ids) for ids in self.retain], parts)[mine]
        batch = pack(
            [self.pairs[i] for i in pairs],
            [self.retain[i] for i in retain],
            counts={key: total / parts for key, total in self._window_counts(window).items()},
            num_examples=len(window.pairs) / parts,
            layout=self.layout,
            pad_id=self.pad_id,
        )
        return replace(batch, places={"pairs": tuple(pairs), "retain": tuple(retain)})

    def _window_counts(self, window: _Window) -> dict[tuple[Side, TokenScope], int]:
        kept = sum(len(self.retain[i]) - 1 for i in window.retain)
        counts = dict(zip(COUNTED, self._counts[window.pairs].sum(0).tolist(), strict=True))
        return {**counts, ("retain", "all"): kept, ("retain", "unedited"): kept, ("retain", "edited"): 0}

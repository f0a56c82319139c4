"""Every pair once an epoch, however the work is shared and wherever it is broken off."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from hotfix.data.encode import Branch, EncodedPair
from hotfix.data.loader import PairLoader, Share, deal, windows
from hotfix.data.packing import Batch
from hotfix.errors import ConfigError


def make_pairs(count: int) -> list[EncodedPair]:
    rng = random.Random(count)

    def branch(token: int) -> Branch:
        length = rng.randint(1, 6)
        return Branch([token] * length, [True, *[rng.random() < 0.5 for _ in range(length - 1)]], 1)

    return [EncodedPair(f"p{i}", list(range(rng.randint(1, 9))), 1, "", branch(1), branch(2)) for i in range(count)]


RETAIN = [[i] * (2 + i % 4) for i in range(7)]


def loader(count: int = 23, size: int = 6, share: Share | None = None, **more: Any) -> PairLoader:
    return PairLoader(make_pairs(count), RETAIN, size, more.pop("retain_size", 3), share, **more)


def epoch(source: PairLoader) -> list[Batch]:
    return list(source)


def keys(batches: Sequence[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def kept(batch: Batch) -> Counter[tuple[int, ...]]:
    """Retain texts of a batch, which have no ids, by their tokens."""
    if batch.retain is None:
        return Counter()
    pairs = zip(batch.retain.input_ids, batch.retain.branch, strict=True)
    return Counter(tuple(ids[branch >= 0].tolist()) for ids, branch in pairs)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 23, 24, 25])
@pytest.mark.parametrize("size", [1, 6, 100])
def test_every_pair_once_an_epoch(count: int, size: int) -> None:
    source = loader(count, size)
    for _ in range(3):
        batches = epoch(source)
        assert len(batches) == len(source) == -(-count // size)
        assert sorted(keys(batches)) == sorted(f"p{i}" for i in range(count))


@pytest.mark.parametrize("count", range(1, 40))
def test_windows_are_as_few_and_as_even_as_can_be(count: int) -> None:
    for size in (1, 3, 8):
        found = windows(range(count), size, random.Random(count))
        lengths = {len(window) for window in found}
        assert len(found) == -(-count // size)
        assert max(lengths) <= size
        assert max(lengths) - min(lengths) <= 1
        assert sorted(i for window in found for i in window) == list(range(count))


def test_a_window_holds_neighbours_in_length_at_a_random_place() -> None:
    lengths = [random.Random(i).randint(1, 50) for i in range(40)]
    orders = []
    for seed in range(4):
        found = windows(lengths, 5, random.Random(seed))
        spans = [(min(lengths[i] for i in window), max(lengths[i] for i in window)) for window in found]
        orders.append(spans)
        ordered = sorted(spans)
        assert all(before[1] <= after[0] for before, after in pairwise(ordered))
    assert len(set(map(tuple, orders))) == 4


@pytest.mark.parametrize("parts", range(1, 6))
def test_dealing_gives_each_item_to_one_part_and_neighbours_in_length(parts: int) -> None:
    lengths = [random.Random(i).randint(1, 9) for i in range(20)]
    found = deal(range(5, 18), lengths, parts)
    assert sorted(i for part in found for i in part) == list(range(5, 18))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    flat = [lengths[i] for part in found for i in part]
    assert flat == sorted(flat)


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (1, 3), (2, 2), (3, 2), (1, 6)])
def test_shares_of_a_window_are_the_window(world: int, accumulate: int) -> None:
    whole = loader(24, 6)
    shares = [loader(24, 6, Share(rank, world, accumulate)) for rank in range(world)]
    for _ in range(2):
        one, many = epoch(whole), [epoch(share) for share in shares]
        for w, window in enumerate(one):
            parts = [batch for found in many for batch in found[w * accumulate : (w + 1) * accumulate]]
            assert len(parts) == world * accumulate
            assert Counter(keys(parts)) == Counter(window.keys)
            assert sum(map(kept, parts), Counter()) == kept(window)
            assert sum(part.num_examples for part in parts) == pytest.approx(window.num_examples)
            for key, total in window.counts.items():
                assert sum(part.counts[key] for part in parts) == pytest.approx(total)
                assert {round(part.counts[key], 9) for part in parts} == {round(total / len(parts), 9)}


def test_counts_of_a_window_are_those_of_its_targets() -> None:
    for batch in epoch(loader()):
        for (side, scope), total in batch.counts.items():
            assert total == len(batch.targets[side].in_scope(scope).token)


def test_no_process_runs_out_early() -> None:
    for count in range(12, 40):
        found = [epoch(loader(count, 8, Share(rank, 2, 2))) for rank in range(2)]
        assert len(found[0]) == len(found[1])
        assert all(batch.keys for batches in found for batch in batches)


@pytest.mark.parametrize("share", [Share(), Share(1, 2, 2)])
@pytest.mark.parametrize("stop", range(10))
def test_a_restart_goes_on_as_if_nothing_had_been(share: Share, stop: int) -> None:
    whole, broken = loader(share=share), loader(share=share)
    expected = [keys([batch]) for _ in range(3) for batch in whole]
    seen: list[list[str]] = []
    while len(seen) < stop:
        for batch in broken:
            seen.append(keys([batch]))
            if len(seen) == stop:
                break
    fresh = loader(share=share)
    fresh.load_state_dict(broken.state_dict())
    while len(seen) < len(expected):
        seen += [keys([batch]) for batch in fresh]
    assert seen == expected


def test_a_checkpoint_at_the_end_of_an_epoch_begins_the_next() -> None:
    source = loader()
    epoch(source)
    assert source.state_dict() == {"epoch": 1, "position": 0}
    fresh = loader()
    fresh.load_state_dict(source.state_dict())
    assert keys(epoch(fresh)) == keys(epoch(source))


def test_epochs_and_seeds_differ_and_a_seed_repeats() -> None:
    one, same, other = loader(seed=1), loader(seed=1), loader(seed=2)
    first = [keys(epoch(one)) for _ in range(3)]
    assert len({tuple(found) for found in first}) == 3
    assert [keys(epoch(same)) for _ in range(3)] == first
    assert keys(epoch(other)) not in first


def test_retain_texts_are_drawn_in_turn() -> None:
    drawn = sum((kept(batch) for batch in epoch(loader(42, 6))), Counter())
    assert drawn.total() == 7 * 3
    assert set(drawn) == {tuple(ids) for ids in RETAIN}
    assert set(drawn.values()) == {3}


def test_no_retain_texts_is_no_retain_rows() -> None:
    batches = epoch(PairLoader(make_pairs(5), [], 2, 4))
    assert all(batch.retain is None and batch.counts["retain", "all"] == 0 for batch in batches)


@pytest.mark.parametrize(("count", "size"), [(3, 8), (5, 4), (0, 4)])
def test_too_few_pairs_for_the_micro_batches(count: int, size: int) -> None:
    message = (
        f"data.init_args.batch_size is {size} and there are {count} pairs, but a step has 4 micro-batches "
        "(2 processes x 2 accumulated); each needs a pair"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        loader(count, size, Share(0, 2, 2))


def test_a_pair_comes_as_often_as_asked_for_and_keeps_its_place() -> None:
    pairs = make_pairs(5)
    source = PairLoader(pairs, RETAIN, 3, 1, repeats=[1, 3, 1, 2, 1])
    for _ in range(2):
        batches = epoch(source)
        assert len(batches) == len(source) == 3
        assert Counter(keys(batches)) == {"p0": 1, "p1": 3, "p2": 1, "p3": 2, "p4": 1}
        assert [f"p{place}" for batch in batches for place in batch.places["pairs"]] == keys(batches)

"""Which blocks an editor changes: given, or at the same depth as in the papers, or measured."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["at_depths", "check_blocks"]

from hotfix.errors import ConfigError


def at_depths(depths: Sequence[float], count: int) -> list[int]:
    """Return the blocks at some shares of a decoder's depth, each once.

    >>> at_depths([4 / 31, 5 / 31, 6 / 31], 32)
    [4, 5, 6]
    >>> at_depths([0.1, 0.15, 0.2], 4)
    [0, 1]
    """
    return sorted({round(depth * (count - 1)) for depth in depths})


def check_blocks(blocks: Sequence[int], count: int) -> list[int]:
    """Return the blocks in ascending order.

    Raises:
        ConfigError: there are none, one is there twice or isn't there.
    """
    found = sorted(set(blocks))
    if not found or len(found) != len(blocks) or found[0] < 0 or found[-1] >= count:
        raise ConfigError(
            f"editor.init_args.layers is {list(blocks)}, expected different indices of blocks from 0 to {count - 1}"
        )
    return found

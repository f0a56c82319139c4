"""The edits that a codebook holds, and how far the ball of each reaches beside those of the others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Entries", "Entry", "ball_radii"]

_NEVER = -1.0


@dataclass(frozen=True)
class Entry:
    """One edit.

    Attributes:
        id: of its request.
        prompt: token ids, not empty.
        target: token ids; two edits want the same where these are equal.
        shares: id of an edit whose value answers this one, too; none by default.
    """

    id: str
    prompt: tuple[int, ...]
    target: tuple[int, ...]
    shares: str = ""


@dataclass(frozen=True)
class Entries:
    """Edits in the order in which they were made, a row each.

    A value is never changed once it is there, and the radii follow from the rest alone, so that taking an edit out
    leaves what would be there without it, bit for bit.

    Attributes:
        edits: n of them.
        keys: float32 [n, K].
        values: float32 [n, H].
        reach: radius that each ball would have by itself, float32 [n].
        radii: of the balls, float32 [n]; negative where an edit has none of its own.
        ends: what enters the layer at each prompt's last token, float32 [n, D]; of no width where nobody asks.
    """

    edits: tuple[Entry, ...]
    keys: Tensor
    values: Tensor
    reach: Tensor
    radii: Tensor
    ends: Tensor

    @classmethod
    def none(cls, key: int, value: int, end: int = 0) -> Entries:
        """Return no edit, with keys, values and ends of these widths."""
        keys, values, ends = (torch.zeros(0, width) for width in (key, value, end))
        return cls((), keys, values, torch.zeros(0), torch.zeros(0), ends)

    def __len__(self) -> int:
        return len(self.edits)

    def added(self, edit: Entry, key: Tensor, value: Tensor, reach: float, end: Tensor | None = None) -> Entries:
        """Return these and one more: its key [K], value [H] and end [D]."""
        edits = (*self.edits, edit)
        keys = torch.cat([self.keys, key.float()[None]])
        values = torch.cat([self.values, value.float()[None]])
        reaches = torch.cat([self.reach, torch.tensor([reach])])
        radii = torch.cat([self.radii, torch.tensor([_NEVER])])
        _admit(edits, keys, reaches, radii, len(self))
        ends = torch.cat([self.ends, self.ends.new_zeros(1, 0) if end is None else end.float()[None]])
        return Entries(edits, keys, values, reaches, radii, ends)

    def without(self, ids: Collection[str]) -> Entries:
        """Return these less some, as they would be if those had never been made."""
        keep = [i for i, edit in enumerate(self.edits) if edit.id not in ids]
        edits = tuple(self.edits[i] for i in keep)
        keys, reach = self.keys[keep], self.reach[keep]
        return Entries(edits, keys, self.values[keep], reach, ball_radii(edits, keys, reach), self.ends[keep])

    def at(self, edit_id: str) -> int | None:
        """Return the row of an edit, None where there is no such."""
        return next((i for i, edit in enumerate(self.edits) if edit.id == edit_id), None)


def ball_radii(edits: Sequence[Entry], keys: Tensor, reach: Tensor) -> Tensor:
    """Return the radii of balls that are admitted one after the other, [n].

    Two balls whose targets differ may not overlap: where they would, each ends halfway between the keys, or where it
    ended already (GRACE's split, https://arxiv.org/abs/2211.11031, section 3, which looks at the nearest key only, and
    may widen a ball that was narrowed before). An edit that shares another's value has no ball; the other's is widened
    to its key, as far as balls of other targets leave room, else it has its own (the paper's expansion). An edit of an
    earlier one's very prompt with another target takes its place.

    Args:
        edits: n of them.
        keys: [n, K].
        reach: the radius of each ball by itself, [n].

    >>> one, other = Entry("a", (1,), (7,)), Entry("b", (2,), (8,))
    >>> ball_radii([one, other], torch.tensor([[0.0], [1.0]]), torch.tensor([1.0, 1.0]))
    tensor([0.5000, 0.5000])
    """
    radii = torch.full((len(edits),), _NEVER)
    for row in range(len(edits)):
        _admit(edits[: row + 1], keys[: row + 1], reach, radii, row)
    return radii


def _admit(edits: Sequence[Entry], keys: Tensor, reach: Tensor, radii: Tensor, row: int) -> None:
    """Give the last edit a ball, and change the radii before it."""
    edit = edits[row]
    shared = next((i for i in range(row) if edits[i].id == edit.shares and radii[i] >= 0), None)
    if shared is not None and _widened(edits, keys, radii, shared, keys[row]):
        return
    distances = _distances(keys[:row], keys[row])
    for i, other in enumerate(edits[:row]):
        if other.target != edit.target and other.prompt == edit.prompt:
            radii[i] = _NEVER
    differs = torch.tensor([other.target != edit.target for other in edits[:row]], dtype=torch.bool)
    touching = (differs & (radii[:row] >= 0) & (distances < reach[row] + radii[:row])).nonzero()[:, 0]
    # A hair less than half: what lies on the border belongs to neither.
    halves = distances[touching] * (0.5 - 1e-6)
    radii[touching] = torch.minimum(radii[touching], halves)
    radii[row] = torch.cat([reach[row, None], halves]).min()


def _widened(edits: Sequence[Entry], keys: Tensor, radii: Tensor, at: int, key: Tensor) -> bool:
    """Widen a ball until it holds a key; False where that would reach into another target's."""
    # A little beyond: in half precision, or in another batch, the same prompt's key is not the same to the last bit.
    wanted = float(_distances(keys[at][None], key)) + float(radii[at]) / 2
    others = [i for i, e in enumerate(edits[: len(keys) - 1]) if e.target != edits[at].target and radii[i] >= 0]
    if others and wanted > float((_distances(keys[others], keys[at]) - radii[others]).min()):
        return False
    radii[at] = max(float(radii[at]), wanted)
    return True


def _distances(keys: Tensor, key: Tensor) -> Tensor:
    """Return Euclidean distances, [n, K] and [K] -> [n], by differences, which rounding does not touch."""
    found: Tensor = torch.linalg.vector_norm(keys - key, dim=-1)
    return found

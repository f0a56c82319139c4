"""What a repair says about each failure; kept with the patch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

from hotfix.editors.repair.attribution import Neuron

__all__ = ["Outcome", "RepairReport", "Status"]

Status: TypeAlias = Literal["solved", "unsolved", "unrepairable", "contradictory", "guarded", "broken"]


class Outcome(NamedTuple):
    """What a method did to the working copy.

    Attributes:
        steps: steps of descent, or patches.
        layers: blocks that it was allowed to change.
        neurons: columns that it changed; None for all of these blocks.
        contradicts: point -> point whose key is the same and whose steer is another, by index.
    """

    steps: int
    layers: list[int]
    neurons: list[Neuron] | None = None
    contradicts: Mapping[int, int] = {}


@dataclass(frozen=True)
class RepairReport:
    """One failure and what became of it.

    Attributes:
        request: id of its request.
        position: of the token in the request's target, from 0.
        target: the token that belongs there.
        predicted: the token that was likeliest instead.
        status: `solved`; `unsolved` (undone, unless other failures of its group were solved); `unrepairable`: the head
            has the same row for both tokens; `contradictory`: unsolved, and another failure has the same key and
            another steer; `guarded`: undone, because it changed too much unrelated code; `broken`: solved, and
            unsolved again by a later one.
        steps: steps of descent, or patches.
        margin_before: the target's logit less the largest other one, before the first attempt.
        margin_after: the same in the end, in the model's own precision.
        layers: blocks that were allowed to change.
        neurons: columns (block, index) that changed; None for all of these blocks.
        norm: Frobenius norm of the change of all matrices by all that was done for its group, the last time.
        seconds: that its group took.
        together: failures that were repaired with it, itself included.
        contradicts: `request:position` of the other failure, where there is one.
    """

    request: str
    position: int
    target: int
    predicted: int
    status: Status
    steps: int
    margin_before: float
    margin_after: float
    layers: list[int]
    neurons: list[Neuron] | None
    norm: float
    seconds: float
    together: int
    contradicts: str | None = None

    def after(self, first: RepairReport | None) -> RepairReport:
        """Add this attempt to the first one at the same token, whose changes stay."""
        if first is None:
            return self
        both = None if self.neurons is None or first.neurons is None else sorted({*first.neurons, *self.neurons})
        return replace(
            self,
            predicted=first.predicted,
            margin_before=first.margin_before,
            steps=first.steps + self.steps,
            layers=sorted({*first.layers, *self.layers}),
            neurons=both,
            seconds=first.seconds + self.seconds,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        plain = asdict(self)
        return plain | {"neurons": None if self.neurons is None else [list(n) for n in self.neurons]}

"""Which failures are repaired together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from hotfix.data.edits import EncodedRequest
from hotfix.editors.repair.failures import Failure

__all__ = ["Group", "Mode", "Place", "repair_groups"]

Mode: TypeAlias = Literal["iterative", "answer", "joint"]


class Place(NamedTuple):
    """A target token: index of the request, position in its target from 0, and the request's id."""

    request: int
    position: int
    id: str


class Group(NamedTuple):
    """What a repair sees at once.

    Attributes:
        requests: token ids; target tokens that are right already are to stay so.
        places: of all their target tokens, in order.
    """

    requests: list[EncodedRequest]
    places: list[Place]


def repair_groups(requests: Sequence[EncodedRequest], failures: Sequence[Failure], mode: Mode) -> list[Group]:
    """Group failures, in their order.

    Args:
        requests: all of them.
        failures: of these.
        mode: `iterative`: each failure behind its own prefix; `answer`: each request that fails anywhere; `joint`: all
            requests.

    >>> request = EncodedRequest("a", [5], [6, 7])
    >>> repair_groups([request], [Failure(0, 1, [5, 6], 7, 9, -1.0)], "iterative")[0].requests
    [EncodedRequest(id='a', prompt=[5, 6], target=[7])]
    """
    if mode == "iterative":
        return [
            Group(
                [EncodedRequest(requests[f.request].id, f.prefix, [f.target])],
                [Place(f.request, f.position, requests[f.request].id)],
            )
            for f in failures
        ]
    failing = list(dict.fromkeys(f.request for f in failures))
    together = [[index] for index in failing] if mode == "answer" else [list(range(len(requests)))]
    return [
        Group(
            [requests[i] for i in indices],
            [Place(i, position, requests[i].id) for i in indices for position in range(len(requests[i].target))],
        )
        for indices in together
    ]

"""One problem of a data set, as `hotfix check` tells it."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["Finding", "Severity"]

Severity = Literal["error", "warning"]


class Finding(NamedTuple):
    """One problem.

    Attributes:
        severity: an error makes training or measuring wrong; a warning may be meant so.
        kind: what sort of problem, the same words for all of a sort.
        id: the pair; empty where it is the whole data set.
        source: `file:line` of the pair; empty likewise.
        text: what was found.
        hint: how to mend it.
    """

    severity: Severity
    kind: str
    id: str
    source: str
    text: str
    hint: str

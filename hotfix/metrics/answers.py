"""What metrics of written answers have in common: a record holds what was written, and what should have been."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

from hotfix.metrics.base import Record

__all__ = ["DECIMALS", "Answer", "Strip", "answers"]

# Whose white space at the ends doesn't count.
Strip: TypeAlias = Literal["both", "written", "neither"]
# Published code rounds every example's score before it averages.
DECIMALS: Final = 3


class Answer(NamedTuple):
    """One answer: what the model wrote, and the text that it is compared with."""

    written: str
    reference: str


def answers(record: Record, strip: Strip) -> list[Answer]:
    """Return the answers of a record, whose fields `written` and `reference` are lists of texts.

    >>> answers({"written": [" x"], "reference": ["x "]}, "written")
    [Answer(written='x', reference='x ')]
    """
    pairs = [Answer(*pair) for pair in zip(record["written"], record["reference"], strict=True)]
    if strip == "neither":
        return pairs
    return [Answer(a.written.strip(), a.reference.strip() if strip == "both" else a.reference) for a in pairs]

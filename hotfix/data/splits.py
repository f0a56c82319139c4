"""Which rows train, which validate and which test, where the file doesn't say.

A group (a project, a commit, a task, a document) goes to one split whole, by a hash of its name: neighbours in one file
would otherwise be trained on and tested with. The hash depends on nothing but the name and the seed, so rows that are
added later move none of those that are there.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hotfix.data.schema import CodePair
from hotfix.data.spilled import held
from hotfix.errors import ConfigError, DataError
from hotfix.types import SPLITS, Split

__all__ = ["GROUPS", "Splitter", "assign", "group_of"]

log = logging.getLogger(__name__)

GROUPS: Mapping[str, tuple[str, ...]] = {
    "project": ("project", "projectName", "repository", "repository_url", "repo", "repo_name"),
    "commit": ("commit", "fixCommitSHA1", "commitSHA1", "buggy_commit", "commit_link", "commit_sha"),
    "task": ("task", "task_id", "problem", "problem_id"),
    "document": ("document",),
}
"""Kind of group -> the columns that may name it; widest kind first."""


def assign(group: str, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0) -> Split:
    """Return the split of a group.

    Args:
        group: its name.
        fractions: what part of all names goes to train, validation and test; of few groups, only roughly.
        seed: another number deals anew.

    >>> [assign(name) for name in ("apache/lucene", "spring", "libgdx")]
    ['train', 'train', 'train']
    """
    place = int.from_bytes(hashlib.sha256(f"{seed}/{group}".encode()).digest()[:8], "big") / 2**64
    for split, fraction in zip(SPLITS, fractions, strict=True):
        place -= fraction
        if place < 0:
            return split
    return next(split for split, fraction in zip(SPLITS, fractions, strict=True) if fraction)


def group_of(pair: CodePair, by: str) -> str | None:
    """Return the group that a pair belongs to; None where its row doesn't say.

    Args:
        pair: the pair.
        by: `row` (what it says, so that its copies go with it), a kind of `GROUPS`, or a column of the row.

    >>> group_of(CodePair("1", "", "a", "b", meta={"repository_url": "github.com/x/y"}), "project")
    'github.com/x/y'
    """
    if by == "row":
        return "\0".join((pair.prefix, pair.buggy, pair.fixed))
    columns = (by, *GROUPS.get(by, ()))
    return next((str(pair.meta[c]) for c in columns if pair.meta.get(c) not in (None, "")), None)


@dataclass(frozen=True)
class Splitter:
    """Deals the pairs of one file to the splits.

    Args:
        by: `auto` (by the first of project, commit, task and document that most rows have; not at all where there is
            none), one of these, `row`, or the name of a column. Rows that don't say stay together.
        fractions: part of train, validation and test; they sum to 1.
        seed: of the hash.
    """

    by: str = "auto"
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the fractions."""
        if min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ConfigError(
                f"data.init_args.fractions are {list(self.fractions)}, expected three parts that sum to 1, of train, "
                "validation and test"
            )

    def __call__(self, pairs: Sequence[CodePair], name: str) -> Sequence[CodePair]:
        """Return the pairs with their split; as they are where a row names one, or there is nothing to go by.

        Raises:
            DataError: no row says what it is to be split by.
        """
        by = self._kind(pairs)
        if by is None or any(pair.split for pair in pairs):
            return pairs
        if pairs and all(group_of(pair, by) is None for pair in pairs):
            hint = f"set data.init_args.split_by to row, or to a column that there is: {', '.join(pairs[0].meta)}"
            raise DataError(f"no row has a {by} to be split by", name, hint=hint)
        rows: Counter[Split] = Counter()
        groups: dict[int, Split] = {}

        def dealt() -> Iterator[CodePair]:
            for pair in pairs:
                group = group_of(pair, by) or ""
                split = assign(group, self.fractions, self.seed)
                rows[split] += 1
                # Where each row is a group, its name is too long to be kept.
                groups[hash(group)] = split
                yield replace(pair, split=split)

        found = held(dealt())
        names = Counter(groups.values())
        parts = ", ".join(f"{split} {rows[split]} pairs ({names[split]} {by}s)" for split in SPLITS)
        log.info("%s: split by %s: %s", name, by, parts)
        return found

    def _kind(self, pairs: Sequence[CodePair]) -> str | None:
        if self.by != "auto":
            return self.by
        said = Counter(kind for pair in pairs for kind in GROUPS if group_of(pair, kind) is not None)
        return next((kind for kind in GROUPS if said[kind] and 2 * said[kind] >= len(pairs)), None)

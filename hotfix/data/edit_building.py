"""From rows of prompt and target to edits with paraphrases and neighbours: what the published sets came with.

Most of the rows stay unedited: they are the pool that neighbours are chosen from, so that a neighbour is never an edit,
nor a paraphrase of one, nor anything whose answer an edit changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from hotfix.data.edit_rows import EditRow
from hotfix.data.edit_splits import linked
from hotfix.data.neighbours import nearest
from hotfix.data.paraphrase import paraphrases

__all__ = ["choose", "unambiguous", "with_neighbours", "with_paraphrases"]

Chosen: TypeAlias = tuple[list[EditRow], list[EditRow]]


def unambiguous(rows: Sequence[EditRow]) -> list[EditRow]:
    """Return the first row of each prompt that wants one target only: an edit can't satisfy two.

    >>> rows = [EditRow("1", "list files", "ls"), EditRow("2", "List  files", "dir"), EditRow("3", "who", "whoami")]
    >>> [row.id for row in unambiguous([*rows, EditRow("4", "who", "whoami")])]
    ['3']
    """
    first: dict[str, EditRow] = {}
    targets: dict[str, set[str]] = {}
    for row in rows:
        first.setdefault(_folded(row.prompt), row)
        targets.setdefault(_folded(row.prompt), set()).add(row.target.strip())
    return [row for prompt, row in first.items() if len(targets[prompt]) == 1]


def choose(rows: Sequence[EditRow], count: int | None = None, seed: int = 0) -> Chosen:
    """Choose which rows are edited, by a hash; at most one of a chain of linked rows, and at most half of the chains.

    What is linked with an edit (a like prompt, the same target) is in neither list, and no edit is ambiguous.

    Args:
        rows: the rows of a split.
        count: edits; null for half of the chains.
        seed: another number chooses anew.

    Returns:
        The edits, and the pool; both in the order of `rows`.

    >>> rows = [EditRow(str(i), f"make number {i}", f"f({i})") for i in range(6)]
    >>> [len(part) for part in choose(rows, 2)], [len(part) for part in choose(rows)]
    ([2, 4], [3, 3])
    """
    chains = linked(rows)
    clear = {id(row) for row in unambiguous(rows)}
    first: dict[str, EditRow] = {}
    for name, row in sorted(zip(chains, rows, strict=True), key=lambda item: _digest(f"{seed}/{item[1].prompt}")):
        if id(row) in clear:
            first.setdefault(name, row)
    names = sorted(first, key=lambda name: _digest(f"{seed}/{name}"))
    edited = set(names[: min(len(set(chains)) // 2, len(names) if count is None else count)])
    chosen = {id(first[name]) for name in edited}
    edits = [row for row in rows if id(row) in chosen]
    return edits, [row for name, row in zip(chains, rows, strict=True) if name not in edited]


def with_paraphrases(
    edits: Sequence[EditRow], rows: Sequence[EditRow], count: int, rule: Callable[[str, int], list[str]] = paraphrases
) -> list[EditRow]:
    """Give each edit that has none its paraphrases, and say in `meta["paraphrase"]` where they are from.

    Args:
        edits: the edits.
        rows: where other prompts with the same target are looked for: people's own paraphrases (`same target`).
        count: how many of an edit.
        rule: makes them where there is no such prompt (`rule`).

    >>> rows = [EditRow("1", "list files", "ls"), EditRow("2", "what is here?", "ls"), EditRow("3", "print x", "x")]
    >>> [(row.paraphrases, row.meta["paraphrase"]) for row in with_paraphrases([rows[0], rows[2]], rows, 1)]
    [(('what is here?',), 'same target'), (('I need to output x',), 'rule')]
    """
    same: dict[str, list[str]] = {}
    for row in unambiguous(rows):
        same.setdefault(row.target.strip(), []).append(row.prompt)
    found = []
    for edit in edits:
        others = {_folded(p): p for p in same.get(edit.target.strip(), ()) if _folded(p) != _folded(edit.prompt)}
        made = tuple(others.values())[:count] or tuple(rule(edit.prompt, count))
        meta: Mapping[str, object] = {**edit.meta, "paraphrase": "same target" if others else "rule"}
        found.append(edit if edit.paraphrases else replace(edit, paraphrases=made, meta=meta))
    return found


def with_neighbours(edits: Sequence[EditRow], pool: Sequence[str], count: int, too_near: float = 0.75) -> list[EditRow]:
    """Give each edit that has none the nearest prompts of the pool, leaving out what is an edit or a paraphrase.

    Args:
        edits: the edits.
        pool: prompts that aren't edited.
        count: how many of an edit; fewer where the pool has no more.
        too_near: from this similarity on, a prompt mostly asks for the same thing, and its answer ought to change.

    >>> edit = EditRow("1", "list files", "ls", paraphrases=("list the files",))
    >>> with_neighbours([edit], ["ping a host", "list the files", "list users"], 2)[0].neighbours
    ('list users', 'ping a host')
    """
    asked = {_folded(text) for edit in edits for text in (edit.prompt, *edit.paraphrases)}
    free = list({_folded(text): text for text in pool if _folded(text) not in asked}.values())
    found = nearest([edit.prompt for edit in edits], free, count, too_near)
    return [
        edit if edit.neighbours else replace(edit, neighbours=tuple(free[n.number] for n in near))
        for edit, near in zip(edits, found, strict=True)
    ]


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

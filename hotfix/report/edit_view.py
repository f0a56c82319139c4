"""One edit before people's eyes: what the model wrote before, what it writes now, and what else moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Shown", "edit_table", "shown"]

_NAMES: Final = {
    "efficacy": "prompt",
    "generalisation": "paraphrase",
    "specificity": "neighbour",
    "unrelated": "unrelated",
}
_WIDEST: Final = 44


class Shown(NamedTuple):
    """One prompt.

    Attributes:
        kind: `prompt`, `paraphrase`, `neighbour` or `unrelated`.
        prompt: its end.
        before: what the base writes behind it.
        after: what the edited model writes.
        kl: KL(base || edited) of the answer, in nats a token; None where the logits are no numbers.
    """

    kind: str
    prompt: str
    before: str
    after: str
    kl: float | None


def shown(slices: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> Iterator[Shown]:
    """Yield every prompt of the records of `hotfix.tasks.EditQuality`.

    Args:
        slices: by the slice's name, the records `before` and `after`, one a request each.
    """
    for name, kind in _NAMES.items():
        records = slices.get(name, {"before": [], "after": []})
        for before, after in zip(records["before"], records["after"], strict=True):
            columns = (after["prompt"], before["written"], after["written"], after["kl_each"])
            for prompt, first, then, kl in zip(*columns, strict=True):
                yield Shown(kind, prompt, first, then, kl)


def edit_table(rows: Iterator[Shown]) -> Table:
    """Return the prompts as a table; what changed is bold."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("", "behind", "before", "after"):
        table.add_column(column, overflow="fold")
    table.add_column("KL", justify="right", no_wrap=True)
    for row in rows:
        moved = row.before != row.after
        kl = "-" if row.kl is None else f"{row.kl:.3g}"
        after = Text(_short(row.after), style="bold") if moved else Text("as before", style="dim")
        table.add_row(row.kind, Text(_tail(row.prompt)), Text(_short(row.before)), after, kl)
    return table


def _short(text: str) -> str:
    """The beginning of a text, on one line."""
    line = _line(text)
    return line if len(line) <= _WIDEST else f"{line[:_WIDEST]}..."


def _tail(text: str) -> str:
    """The end of a prompt, on one line."""
    line = _line(text)
    return line if len(line) <= _WIDEST else f"...{line[-_WIDEST:]}"


def _line(text: str) -> str:
    r"""A text on one line, its line breaks shown and its indentation not.

    >>> _line("\n  a =\n    1")
    'a = ↵ 1'
    """
    return " ↵ ".join(" ".join(line.split()) for line in text.split("\n") if line.strip())

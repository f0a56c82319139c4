"""What is wrong with the rows, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hotfix.data.quality import Finding

__all__ = ["quality_table", "summary", "told"]


def told(finding: Finding) -> str:
    """Return a finding in one line.

    >>> told(Finding("error", "duplicate", "a/1", "f.jsonl:3", "the same as a/2", "remove one"))
    'f.jsonl:3: a/1: the same as a/2; remove one'
    """
    place = "".join(f"{part}: " for part in (finding.source, finding.id) if part)
    return f"{place}{finding.text}" + (f"; {finding.hint}" if finding.hint else "")


def summary(found: Sequence[Finding]) -> str:
    """Return how many of each kind were found, errors first.

    >>> summary([])
    'no problems found'
    """
    counts = Counter((finding.severity, finding.kind) for finding in found)
    ordered = sorted(counts.items(), key=lambda item: (item[0][0] != "error", -item[1], item[0][1]))
    named = [f"{count} {severity}{'s' if count > 1 else ''} ({kind})" for (severity, kind), count in ordered]
    return ", ".join(named) or "no problems found"


def quality_table(found: Sequence[Finding], limit: int = 20) -> RenderableType:
    """Return a table of the findings, errors first, at most `limit` of a kind, and how many there are in all."""
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for column in ("severity", "kind", "pair", "where", "problem"):
        table.add_column(column, overflow="fold")
    shown: Counter[str] = Counter()
    for finding in sorted(found, key=lambda f: (f.severity != "error", f.kind)):
        shown[finding.kind] += 1
        if shown[finding.kind] <= limit:
            what = Text(finding.text + (f"; {finding.hint}" if finding.hint else ""))
            style = "red" if finding.severity == "error" else "yellow"
            table.add_row(Text(finding.severity, style), finding.kind, Text(finding.id), Text(finding.source), what)
    hidden = sum(max(0, count - limit) for count in shown.values())
    lines = [Text(f"{hidden} more; --limit {max(shown.values())} shows them")] if hidden else []
    return Group(*([table] if found else []), *lines, Text(summary(found)))

"""Before and after side by side: a terminal table, plain text for logs, Markdown for READMEs.

Every row is one metric of one slice of one task. The change is a ratio for probabilities (names that start with
``p_``), which can differ by orders of magnitude, and for the hotfixing paper's counts (``_substring_rate``), of which
that paper reports ratios; else a difference; green where it is for the better, red for the worse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

__all__ = ["before_after_table", "better_direction", "markdown_table", "render"]

_DIRECTIONS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "bleu": 1,
        "broken_rate": -1,
        "buggy_rate": -1,
        "buggy_substring_rate": -1,
        "em": 1,
        "em_all": 1,
        "exposure": -1,
        "extracted_rate": -1,
        "fixed_rate": 1,
        "fixed_substring_rate": 1,
        "kl": -1,
        "kl_worst": -1,
        "leak_rate": -1,
        "leaks_per_completion": -1,
        "log_prob": 1,
        "lost_rate": -1,
        "neither_rate": 0,
        "p_buggy": -1,
        "p_buggy_at_edit": -1,
        "p_fixed": 1,
        "p_fixed_at_edit": 1,
        "perplexity": -1,
        "planted_rate": -1,
        "prefers_fixed": 1,
        "rank": 1,
        "rouge_l": 1,
        "solved_rate": 1,
        "token_accuracy": 1,
        "unchanged_rate": 1,
    }
)
_MISSING: Final = "-"
_LEVEL: Final = 0.05
_STYLES: Final[Mapping[int, str]] = MappingProxyType({-1: "red", 0: "", 1: "green"})


def better_direction(metric: str) -> int:
    """1 where more of ``metric`` is better, -1 where less is, 0 where neither or not known.

    >>> better_direction("pass@10"), better_direction("leak_rate"), better_direction("neither_rate")
    (1, -1, 0)
    """
    return 1 if metric.startswith("pass@") else _DIRECTIONS.get(metric, 0)


_FULL_WIDTH: Final = 100


class _Row(NamedTuple):
    """One metric, ready to be shown; ``verdict`` is 1 for the better, -1 for the worse, else 0."""

    task: str
    slice_name: str
    metric: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    change: str
    verdict: int
    test: Mapping[str, Any]
    n: str


def before_after_table(results: Mapping[str, Any], width: int = _FULL_WIDTH) -> Table:
    """The content of a ``results.json`` as a table of 100 columns or fewer; parts that are missing show as "-".

    In fewer than 100 columns, tests are not named and samples not counted: broken words say less than none.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    full = width >= _FULL_WIDTH
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("task, slice\n  metric", overflow="fold")
    for name in ("before", "after"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("change", justify="right", no_wrap=True)
    table.add_column("p\ntest" if full else "p", overflow="fold", no_wrap=not full, max_width=24)
    if full:
        table.add_column("n", justify="right", no_wrap=True)
    place = None
    for row in _rows(results):
        if place != row[:2]:
            if place is not None:
                table.add_section()
            place = row[:2]
            table.add_row(Text(f"{row.task}, {row.slice_name}", style="bold"))
        table.add_row(*_cells(row, full))
    return table


def render(table: Table, width: int = 100) -> str:
    """A table as plain text without colours, for logs."""
    from io import StringIO

    from rich.console import Console

    stream = StringIO()
    # An empty environment: FORCE_COLOR and COLUMNS of the terminal have no say in what a log holds.
    Console(file=stream, width=width, color_system=None, force_terminal=False, _environ={}).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())


def markdown_table(results: Mapping[str, Any], groups: bool = False) -> str:
    """The content of a ``results.json`` as a Markdown table, one line a metric.

    Args:
        results: the content.
        groups: show the groups of a slice (its kinds of bug, where it reports them) behind it, as ``slice/group``.

    >>> slices = {"all": {"before": {"kl": {"value": 0.5, "n": 8, "low": 0.4, "high": 0.6}}}}
    >>> print(markdown_table({"tasks": {"email": slices}}).splitlines()[2])
    | email | all | kl | 0.500 [0.400, 0.600] | - | - | - | 8 |
    """
    lines = [
        "| task | slice | metric | before | after | change | test | n |",
        "|---|---|---|---:|---:|---:|---|---:|",
    ]
    for row in _rows(results, groups):
        test = (
            _MISSING if not row.test else f"{row.test.get('test', '')}, {_p_value(row.test.get('p'))}{_seen(row.test)}"
        )
        before, after = _estimate(row.before, " "), _estimate(row.after, " ")
        cells = [row.task, row.slice_name, row.metric, before, after, row.change, test, row.n]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _rows(results: Mapping[str, Any], groups: bool = False) -> Iterator[_Row]:
    for task, slices in results.get("tasks", {}).items():
        for slice_name, parts in _with_groups(slices) if groups else slices.items():
            before, after, tests = (parts.get(part) or {} for part in ("before", "after", "tests"))
            for metric in {**before, **after, **tests}:
                yield _row(task, slice_name, metric, *(part.get(metric) or {} for part in (before, after, tests)))


def _with_groups(slices: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for slice_name, parts in slices.items():
        yield slice_name, parts
        yield from ((f"{slice_name}/{group}", found) for group, found in (parts.get("groups") or {}).items())


def _row(
    task: str,
    slice_name: str,
    metric: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    test: Mapping[str, Any],
) -> _Row:
    old, new = before.get("value"), after.get("value")
    change, verdict = _MISSING, 0
    if old is not None and new is not None:
        change = _change(old, new, as_ratio=metric.startswith("p_") or metric.endswith("_substring_rate"))
        verdict = better_direction(metric) * ((new > old) - (new < old))
    sizes = [str(part["n"]) for part in (before, after) if part.get("n") is not None]
    n = " -> ".join(dict.fromkeys(sizes)) or _MISSING
    return _Row(task, slice_name, metric, before, after, change, verdict, test, n)


def _cells(row: _Row, full: bool) -> list[Text]:
    from rich.text import Text

    # Text, not str: brackets of intervals and of task names are not markup.
    named = f"\n{row.test['test']}" if full and row.test.get("test") else ""
    test = _p_value(row.test.get("p")) + named
    cells = [
        Text(f"  {row.metric}"),
        Text(_estimate(row.before, "\n")),
        Text(_estimate(row.after, "\n")),
        Text(row.change, style=_STYLES[row.verdict]),
        Text(test if row.test else _MISSING),
        Text(row.n.replace(" -> ", "\n")),
    ]
    return cells if full else cells[:-1]


def _estimate(estimate: Mapping[str, Any], separator: str) -> str:
    """Value and interval; the interval is left out where it is undefined."""
    low, high = estimate.get("low"), estimate.get("high")
    interval = "" if low is None or high is None else f"{separator}[{_number(low)}, {_number(high)}]"
    return _number(estimate.get("value")) + interval


def _change(old: float, new: float, as_ratio: bool) -> str:
    """The step from ``old`` to ``new``; no ratio is defined from 0.

    >>> _change(0.001, 0.5, as_ratio=True), _change(0.25, 0.75, as_ratio=False), _change(0.0, 0.5, as_ratio=True)
    ('x500', '+0.500', '+0.500')
    """
    if as_ratio and old > 0:
        return f"x{_three_digits(new / old)}"
    return ("-" if new < old else "+" if new > old else "") + _number(abs(new - old))


def _number(value: float | None) -> str:
    """Three decimals, or three digits where these would say nothing.

    >>> _number(0.25), _number(0.00004), _number(0), _number(12345.6), _number(None)
    ('0.250', '4.0e-05', '0.000', '12346', '-')
    """
    if value is None:
        return _MISSING
    if 0 < abs(value) < 0.0005:
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"


def _three_digits(value: float) -> str:
    """A ratio in three digits; whole numbers up to a million.

    >>> _three_digits(0.00111), _three_digits(2.5), _three_digits(30000.0), _three_digits(3e7)
    ('0.00111', '2.50', '30,000', '3.0e+07')
    """
    if 999.5 <= value < 1e6:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".") if 0.001 <= value < 1e6 else f"{value:.1e}"


def _seen(test: Mapping[str, Any]) -> str:
    """What a test that found nothing would have found; what else it is by the adjusted p.

    >>> _seen({"p": 1.0, "detectable": 0.26}), _seen({"p": 0.03, "q": 0.2}), _seen({"p": 0.001, "q": 0.002})
    (' (a change of 0.260 would have shown)', ' (adjusted p = 0.200)', '')
    """
    p, q, detectable = (test.get(key) for key in ("p", "q", "detectable"))
    if p is None:
        return ""
    if p >= _LEVEL:
        return "" if detectable is None else f" (a change of {_number(detectable)} would have shown)"
    return f" (adjusted {_p_value(q)})" if q is not None and q >= _LEVEL else ""


def _p_value(p: float | None) -> str:
    """A p-value for people; never "= 0".

    >>> _p_value(0.00001), _p_value(0.0421), _p_value(1.0), _p_value(None)
    ('p < 0.001', 'p = 0.042', 'p = 1', 'p = -')
    """
    if p is None:
        return f"p = {_MISSING}"
    if p < 0.001:
        return "p < 0.001"
    return "p = 1" if p >= 0.9995 else f"p = {p:.3f}"

"""The table of a study for people: a row an arm, as Markdown and in the terminal.

A cell says the mean over seeds, its 95% interval, the change against the base in percent (a factor for probabilities)
and how sure that change is: * p < 0.05, ** p < 0.01, *** p < 0.001. The best arm of a column is bold and starred only
where it is significantly better than each other arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "LEGEND",
    "change_text",
    "interval_text",
    "sources_text",
    "stars",
    "study_markdown",
    "study_tables",
    "value_text",
]

LEGEND: Final = (
    "mean over seeds [95% interval]; change against the base, paired by example: * p < 0.05, ** p < 0.01,"
    " *** p < 0.001; best: significantly better than each other arm"
)
_CELL_WIDTH: Final = 16
_LONGEST_NAME: Final = 24


def stars(p: float | None) -> str:
    """How sure a change is.

    >>> stars(0.0004), stars(0.04), stars(0.2), stars(None)
    ('***', '*', '', '')
    """
    if p is None:
        return ""
    return "***" if p < 0.001 else "**" if p < 0.01 else "*" if p < 0.05 else ""


def value_text(key: str, value: float | None) -> str:
    """A value of a column: shares in percent, seconds whole, else three decimals.

    >>> value_text("fixed_rate", 0.1234), value_text("p_fixed", 0.0000123), value_text("seconds", 166.13)
    ('12.3%', '0.0012%', '166')
    """
    if value is None:
        return "-"
    if key.endswith(("_rate", "_em", "_token_accuracy")) or key.startswith(("pass@", "p_")) or key == "prefers_fixed":
        if 0 < abs(value) < 0.00001:
            return "<0.001%"
        return f"{100 * value:.2g}%" if 0 < abs(value) < 0.0005 else f"{100 * value:.1f}%"
    if key in ("seconds", "patch_mib"):
        return f"{value:.0f}" if value >= 99.5 else f"{value:.1f}"
    if 0 < abs(value) < 0.00005:
        return f"{value:.1e}"
    return f"{value:.4f}" if 0 < abs(value) < 0.1 else f"{value:.3f}"


def interval_text(key: str, cell: Mapping[str, Any]) -> str:
    """The interval of a cell in brackets, the unit left out; nothing where there is none.

    >>> interval_text("fixed_rate", {"low": 0.1, "high": 0.25})
    '[10.0, 25.0]'
    """
    low, high = cell.get("low"), cell.get("high")
    if low is None or high is None:
        return ""
    return f"[{value_text(key, low)}, {value_text(key, high)}]".replace("%", "")


def change_text(key: str, cell: Mapping[str, Any]) -> str:
    """The change of a cell against the base: a factor for probabilities, relative else, absolute from 0.

    >>> change_text("fixed_rate", {"base": 0.1, "value": 0.2, "ratio": 2.0, "change": 0.1, "p": 0.02})
    '+100% *'
    >>> change_text("p_buggy", {"base": 0.4, "value": 0.1, "ratio": 0.25, "change": -0.3, "p": 0.5})
    'x0.25'
    >>> change_text("kl", {"base": 0.0, "value": 0.01, "ratio": None, "change": 0.01, "p": None})
    '+0.0100'
    """
    change, ratio = cell.get("change"), cell.get("ratio")
    if change is None:
        return ""
    if ratio is None:
        text = "0" if change == 0 else f"{'+' if change > 0 else '-'}{value_text(key, abs(change))}"
    elif key.startswith("p_"):
        text = f"x{ratio:.2f}" if 0.01 <= ratio < 100 else f"x{ratio:.1g}"
    else:
        text = f"{100 * (ratio - 1):+.0f}%"
    return f"{text} {stars(cell.get('p'))}".rstrip()


def study_markdown(study: Mapping[str, Any]) -> str:
    r"""The table of a ``study.json`` as Markdown, with what it rests on below.

    >>> cells = {"kl": {"value": 0.5, "low": 0.4, "high": 0.6}}
    >>> columns = [{"key": "kl", "title": "KL", "task": "bug_fix", "slice": "specificity", "metric": "kl"}]
    >>> arm = {"name": "a|b", "seeds": [0], "failed": [1], "cells": cells}
    >>> print(study_markdown({"columns": columns, "bases": [], "arms": [arm]}).splitlines()[2])
    | a\|b (1 of 2 seeds) | 0.500 [0.400, 0.600] |
    """
    columns = study["columns"]
    lines = [
        "| arm | " + " | ".join(_escaped(column["title"]) for column in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    lines += [_row(base["name"], [_cell(c["key"], base["cells"]) for c in columns]) for base in study["bases"]]
    lines += [_row(_label(arm), [_cell(c["key"], arm["cells"]) for c in columns]) for arm in study["arms"]]
    return "\n".join([*lines, "", f"{LEGEND}. {sources_text(columns)}"]).rstrip() + "\n"


def sources_text(columns: Sequence[Mapping[str, Any]]) -> str:
    """Where the columns come from, in a sentence.

    >>> sources_text([{"key": "kl", "title": "KL", "task": "bug_fix", "slice": "specificity"}])
    'Measured: KL on bug_fix/specificity.'
    """
    places: dict[str, list[str]] = {}
    for column in columns:
        if column["task"]:
            places.setdefault(f"{column['task']}/{column['slice']}", []).append(column["title"])
    told = [f"{', '.join(titles)} on {place}" for place, titles in places.items()]
    return f"Measured: {'; '.join(told)}." if told else ""


def study_tables(study: Mapping[str, Any], width: int) -> list[Table]:
    """The table for a terminal, in as many pieces as its width needs."""
    room = max(1, (width - _LONGEST_NAME - 1) // _CELL_WIDTH)
    columns = list(study["columns"])
    pieces = -(-len(columns) // room) if columns else 0
    # Pieces of like width: a last one with a single column would look like an accident.
    size = -(-len(columns) // pieces) if pieces else 1
    return [_table(study, columns[start : start + size]) for start in range(0, len(columns), size)]


def _table(study: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("arm", overflow="fold", max_width=_LONGEST_NAME)
    for column in columns:
        table.add_column(column["title"], justify="right", overflow="fold", max_width=_CELL_WIDTH)
    for base in study["bases"]:
        table.add_row(Text(base["name"], style="dim"), *(Text(_lines(c["key"], base["cells"])) for c in columns))
    table.add_section()
    for arm in study["arms"]:
        cells = [Text(_lines(c["key"], arm["cells"]), style=_style(c, arm["cells"])) for c in columns]
        table.add_row(Text(_label(arm)), *cells)
    return table


def _style(column: Mapping[str, Any], cells: Mapping[str, Any]) -> str:
    cell = cells.get(column["key"], {})
    better, change, p = column["better"], cell.get("change"), cell.get("p")
    sure = change is not None and p is not None and p < 0.05 and better
    colour = "" if not sure else "green" if better * change > 0 else "red"
    return f"bold {colour}".strip() if cell.get("best") else colour


def _lines(key: str, cells: Mapping[str, Any]) -> str:
    cell = cells.get(key)
    if cell is None:
        return "-"
    best = " best" if cell.get("best") else ""
    parts = [value_text(key, cell["value"]) + best, interval_text(key, cell), change_text(key, cell)]
    return "\n".join(part for part in parts if part)


def _cell(key: str, cells: Mapping[str, Any]) -> str:
    cell = cells.get(key)
    if cell is None:
        return "-"
    value = f"{value_text(key, cell['value'])} {interval_text(key, cell)}".rstrip()
    change = change_text(key, cell)
    # Stars would make Markdown bold.
    text = value + (f" ({change})".replace("*", "\\*") if change else "")
    return f"**{text}** best" if cell.get("best") else text


def _label(arm: Mapping[str, Any]) -> str:
    if not arm.get("failed"):
        return str(arm["name"])
    done = len(arm["seeds"])
    return f"{arm['name']} ({done} of {done + len(arm['failed'])} seeds)" if done else f"{arm['name']} (failed)"


def _row(name: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join([_escaped(name), *cells]) + " |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")

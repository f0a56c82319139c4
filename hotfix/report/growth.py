"""How measurements grow or fall with the number that ends the arms' names, as in `memit-1`, `memit-10`, `memit-100`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from hotfix.report.plots import Plot
from hotfix.report.study_table import interval_text, value_text
from hotfix.report.svg import Chart, Scale, colour, ticks

__all__ = ["Series", "growth_plots", "series_keys", "series_of"]

_WIDTH: Final = 360.0
_KEYS: Final = ("edit_em", "fixed_rate", "buggy_rate", "unchanged_rate", "kl", "leak_rate")
_NUMBERED: Final = re.compile(r"(.*[^0-9.])[-=]([0-9]+(?:\.[0-9]+)?)")


class Series(NamedTuple):
    """Arms whose names are alike but for the number at the end.

    Attributes:
        name: what they share.
        points: number and cells, by rising numbers.
    """

    name: str
    points: Sequence[tuple[float, Mapping[str, Any]]]


def series_of(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Series]:
    """Return the series that rows make up, of two numbers at least.

    Args:
        rows: a name and its cells by key.

    >>> [(s.name, [n for n, _ in s.points]) for s in series_of([("a-10", {}), ("b-1", {}), ("a-1", {}), ("c", {})])]
    [('a', [1.0, 10.0])]
    """
    found: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    for name, cells in rows:
        told = _NUMBERED.fullmatch(name)
        if told and float(told[2]) > 0:
            found.setdefault(told[1], []).append((float(told[2]), cells))
    series = [Series(name, sorted(points, key=lambda point: point[0])) for name, points in found.items()]
    return [one for one in series if len(one.points) > 1]


def series_keys(series: Sequence[Series]) -> list[tuple[str, str]]:
    """Return the name and the colour of each."""
    return [(one.name, colour(place)) for place, one in enumerate(series)]


def growth_plots(series: Sequence[Series], columns: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Return a picture for each of some measurements that at least one series has twice.

    Args:
        series: of a study's arms.
        columns: of its table.
    """
    titles = {column["key"]: column["title"] for column in columns}
    found = [_growth(series, key, titles[key]) for key in _KEYS if key in titles]
    return [plot for plot in found if plot is not None]


def _growth(series: Sequence[Series], key: str, title: str) -> Plot | None:
    lines = [[(number, cells[key]) for number, cells in one.points if _known(cells, key)] for one in series]
    points = [point for line in lines if len(line) > 1 for point in line]
    if not points:
        return None
    left, right, top, bottom = 48.0, _WIDTH - 14, 8.0, 182.0
    numbers = sorted({number for number, _ in points})
    x = Scale(math.log(numbers[0]), math.log(numbers[-1]), left + 12, right - 12)
    ends = [end for _, cell in points for end in (cell["value"], cell.get("low"), cell.get("high")) if end is not None]
    y = Scale(0.0, max(ends) or 1.0, bottom, top)
    chart = Chart(_WIDTH, bottom + 34, f"{title} against the number at the end of the arm's name")
    chart.columns(x, top, bottom, [(math.log(number), f"{number:g}") for number in numbers])
    chart.rows(y, left, right, [(v, f"{v:.4g}" if key == "kl" else f"{100 * v:g}%") for v in ticks(0.0, y.high)])
    chart.text(right, bottom + 28, "number at the end of the name", "tick", "end")
    for place, (one, line) in enumerate(zip(series, lines, strict=True)):
        if len(line) > 1:
            chart.path([(x(math.log(n)), y(c["value"])) for n, c in line], "curve", f"stroke:{colour(place)}", one.name)
            for number, cell in line:
                said = f"{one.name}-{number:g}: {value_text(key, cell['value'])} {interval_text(key, cell)}".rstrip()
                _point(chart, x(math.log(number)), y, cell, colour(place), said)
    return Plot(title, "Means with 95% intervals, by the number at the end of the arm's name.", str(chart))


def _point(chart: Chart, across: float, y: Scale, cell: Mapping[str, Any], shade: str, said: str) -> None:
    if cell.get("low") is not None and cell.get("high") is not None:
        chart.line(across, y(cell["low"]), across, y(cell["high"]), "whisker", f"stroke:{shade}")
    chart.dot(across, y(cell["value"]), "point", f"fill:{shade}", said)


def _known(cells: Mapping[str, Any], key: str) -> bool:
    return cells.get(key, {}).get("value") is not None

"""The plots of a report: rates with intervals, fix rate against what was retained, and learning curves."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from hotfix.report.study_table import value_text
from hotfix.report.svg import Chart, Scale, colour, ticks

__all__ = ["Curve", "Plot", "curve_keys", "curve_plots", "pareto_front", "pareto_plots", "rate_plot", "read_curves"]

_WIDTH: Final = 360.0
_MOST_POINTS: Final = 120
_MOST_CURVES: Final = 6


class Plot(NamedTuple):
    """A picture with its caption; ``keys`` name the series of a picture that has no room for names."""

    title: str
    caption: str
    svg: str
    keys: tuple[tuple[str, str], ...] = ()


class Curve(NamedTuple):
    """One series of one run: steps and values."""

    name: str
    place: int
    points: tuple[tuple[float, float], ...]


def rate_plot(
    rows: Sequence[tuple[str, Mapping[str, Any]]], keys: Sequence[str] = ("fixed_rate", "buggy_rate")
) -> Plot | None:
    """Rates of each row with their intervals; None where no row has any.

    Args:
        rows: a name and its cells by key.
        keys: of the two rates, the wanted one first.
    """
    rows = [(name, cells) for name, cells in rows if any(_known(cells, key) for key in keys)]
    if not rows:
        return None
    ends = [cells[k].get("high") or cells[k]["value"] for _, cells in rows for k in keys if _known(cells, k)]
    top, pitch, left = 6.0, 46.0, 12.0
    chart = Chart(_WIDTH, top + pitch * len(rows) + 34, "fixed and buggy rates with 95% intervals")
    scale = Scale(0.0, min(1.0, max(0.1, 1.08 * max(ends))), left, _WIDTH - 14)
    bottom = top + pitch * len(rows)
    chart.columns(scale, top, bottom, [(v, f"{100 * v:g}%") for v in ticks(0.0, scale.high)])
    for i, (name, cells) in enumerate(rows):
        y = top + pitch * i
        chart.text(left, y + 13, _short(name, 48), "label halo")
        for j, (key, kind) in enumerate(zip(keys, ("good", "bad"), strict=True)):
            if _known(cells, key):
                _whisker(chart, scale, y + 23 + 10 * j, cells[key], kind, f"{name}: {key} {_said(key, cells[key])}")
    chart.text(_WIDTH - 14, bottom + 28, "share of completions", "tick", "end")
    caption = "Share of completions on unseen contexts that are the fix (green) or the bug (red), 95% intervals."
    return Plot("Fixed and buggy rate", caption, str(chart))


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points that no other one beats in both coordinates (more is better), by their first coordinate.

    >>> pareto_front([(0.1, 0.9), (0.5, 0.5), (0.4, 0.4), (0.9, 0.1), (0.5, 0.5)])
    [0, 1, 4, 3]
    """
    kept = [i for i, (x, y) in enumerate(points) if not any(a >= x and b >= y and (a > x or b > y) for a, b in points)]
    return sorted(kept, key=lambda i: points[i][0])


def pareto_plots(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Plot]:
    """Fix rate against the unchanged rate and against the divergence, as far as the rows have them."""
    against = (
        ("unchanged_rate", 1, "continuations of unrelated code that stay the same"),
        ("kl", -1, "divergence on unrelated code, nats a token (less is better)"),
    )
    found = (_pareto(rows, key, better, words) for key, better, words in against)
    return [plot for plot in found if plot is not None]


def _pareto(rows: Sequence[tuple[str, Mapping[str, Any]]], key: str, better: int, words: str) -> Plot | None:
    rows = [(name, cells) for name, cells in rows if _known(cells, "fixed_rate") and _known(cells, key)]
    if len(rows) < 2:
        return None
    left, right, top, bottom = 44.0, _WIDTH - 14, 12.0, 232.0
    x = _fitted([cells[key]["value"] for _, cells in rows], left, right, share=key != "kl")
    y = _fitted([cells["fixed_rate"]["value"] for _, cells in rows], bottom, top, share=True)
    chart = Chart(_WIDTH, bottom + 34, f"fixed rate against {key} of each arm")
    chart.columns(x, top, bottom, [(v, _tick(key, v)) for v in ticks(x.low, x.high) if v >= 0])
    chart.rows(y, left, right, [(v, f"{100 * v:g}%") for v in ticks(y.low, y.high) if 0 <= v <= 1])
    chart.text(right, bottom + 28, words, "tick", "end")
    chart.text(left + 5, top + 9, "fixed rate", "tick")
    points = [(better * cells[key]["value"], cells["fixed_rate"]["value"]) for _, cells in rows]
    front = pareto_front(points)
    chart.path([(x(better * points[i][0]), y(points[i][1])) for i in front], "front")
    for i, (name, cells) in enumerate(rows):
        said = f"{name}: fixed {_said('fixed_rate', cells['fixed_rate'])}, {key} {_said(key, cells[key])}"
        place = x(cells[key]["value"]), y(cells["fixed_rate"]["value"])
        chart.dot(*place, "point", f"fill:{colour(i)}", said, radius=8)
        chart.text(place[0], place[1] + 3.2, str(i + 1), "number", "middle")
    best = ", ".join(rows[i][0] for i in front)
    side = "right" if better > 0 else "left"
    caption = f"Up and to the {side} is better; the line joins what nothing beats in both: {best}."
    title = f"Fixed rate against {'what stays unchanged' if key == 'unchanged_rate' else 'drift'}"
    keys = tuple((f"{i + 1} {name}", colour(i)) for i, (name, _) in enumerate(rows))
    return Plot(title, caption, str(chart), keys)


def read_curves(folder: Path, name: str, place: int) -> dict[str, Curve]:
    """The curves of a run by metric, thinned to what a picture shows; none where it kept none."""
    path = folder / "curves/metrics.csv"
    points: dict[str, list[tuple[float, float]]] = {}
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                for metric, told in row.items():
                    value = _number(told)
                    if metric not in ("step", "epoch") and math.isfinite(value):
                        points.setdefault(metric, []).append((_number(row.get("step")), value))
    return {metric: Curve(name, place, _thinned(found)) for metric, found in points.items() if len(found) > 1}


def curve_keys(runs: Sequence[Mapping[str, Curve]]) -> list[tuple[str, str]]:
    """Name and colour of each run's curves; none where there is one run only."""
    names = {(curve.name, curve.place): None for run in runs for curve in run.values()}
    return [(name, colour(place)) for name, place in names] if len(names) > 1 else []


def curve_plots(runs: Sequence[Mapping[str, Curve]]) -> list[Plot]:
    """A picture for each metric, the whole loss first, with a line for each run."""
    metrics = sorted({m for run in runs for m in run if "/" in m}, key=lambda m: (m != "train/loss", m))
    found = [_curves(metric, [run[metric] for run in runs if metric in run]) for metric in metrics[:_MOST_CURVES]]
    return [plot for plot in found if plot is not None]


def _curves(metric: str, curves: Sequence[Curve]) -> Plot | None:
    points = [point for curve in curves for point in curve.points]
    if not points:
        return None
    left, right, top, bottom = 44.0, _WIDTH - 14, 8.0, 142.0
    x = Scale(0.0, max(1.0, *(p[0] for p in points)), left, right)
    low, high = min(p[1] for p in points), max(p[1] for p in points)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    y = Scale(low - margin, high + margin, bottom, top)
    chart = Chart(_WIDTH, bottom + 20, f"{metric} over the steps of training")
    chart.columns(x, top, bottom, [(v, f"{v:g}") for v in ticks(0.0, x.high)])
    chart.rows(y, left, right, [(v, f"{v:.4g}") for v in ticks(y.low, y.high)])
    for curve in curves:
        places = [(x(step), y(value)) for step, value in curve.points]
        chart.path(places, "curve", f"stroke:{colour(curve.place)}", curve.name)
    return Plot(metric, "Over the steps of training.", str(chart))


def _whisker(chart: Chart, scale: Scale, y: float, cell: Mapping[str, Any], kind: str, title: str) -> None:
    low, high = cell.get("low"), cell.get("high")
    if low is not None and high is not None:
        chart.line(scale(low), y, scale(min(high, scale.high)), y, f"whisker {kind}")
    chart.dot(scale(cell["value"]), y, kind, title=title)


def _said(key: str, cell: Mapping[str, Any]) -> str:
    low, high = cell.get("low"), cell.get("high")
    interval = "" if low is None or high is None else f" [{value_text(key, low)}, {value_text(key, high)}]"
    return value_text(key, cell["value"]) + interval


def _known(cells: Mapping[str, Any], key: str) -> bool:
    return cells.get(key, {}).get("value") is not None


def _fitted(values: Sequence[float], start: float, end: float, share: bool) -> Scale:
    """A scale with some room around the values; shares stay within 0 and 1 as far as points can be seen."""
    low, high = min(values), max(values)
    margin = 0.15 * (high - low) or 0.05
    low, high = low - margin, high + margin
    return Scale(max(-0.03, low), min(1.03, high), start, end) if share else Scale(low, high, start, end)


def _tick(key: str, value: float) -> str:
    return f"{value:.5g}" if key == "kl" else f"{100 * value:g}%"


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _thinned(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """At most so many points; each is the mean of its neighbours, so that noise doesn't turn into shape."""
    count, total = min(_MOST_POINTS, len(points)), len(points)
    # Blocks of like size: a last one of a single point would stand out.
    blocks = [points[i * total // count : (i + 1) * total // count] for i in range(count)]
    return tuple((sum(p[0] for p in b) / len(b), sum(p[1] for p in b) / len(b)) for b in blocks)

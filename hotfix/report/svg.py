"""Small charts as inline SVG: drawn with the page's own colours, so they follow dark mode, and with no script.

Text is escaped here; classes are the page's style sheet's (``page.css``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final, NamedTuple

__all__ = ["Chart", "Scale", "colour", "ticks"]

_GOLDEN_ANGLE: Final = 137.508


def colour(place: int) -> str:
    """The colour of a series: hues far from each other, readable on light and dark.

    >>> colour(0)
    'hsl(210 65% 43%)'
    """
    return f"hsl({(210 + place * _GOLDEN_ANGLE) % 360:.0f} 65% 43%)"


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers between two ends, about as many as asked for.

    >>> ticks(0.0, 1.0), ticks(0.03, 0.11, 3)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.04, 0.06, 0.08, 0.1])
    """
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.75)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


class Scale(NamedTuple):
    """A straight line from values to places.

    >>> Scale(0.0, 1.0, 100.0, 200.0)(0.25)
    125.0
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value is."""
        span = self.high - self.low
        return self.start + (self.end - self.start) * ((value - self.low) / span if span else 0.5)


class Chart:
    """Collects shapes; ``str(chart)`` is the picture.

    Args:
        width: of the view box; the page scales it.
        height: of the view box.
        label: what the picture shows, for who can't see it.
    """

    def __init__(self, width: float, height: float, label: str) -> None:
        self.width, self.height, self.label = width, height, label
        self._parts: list[str] = []

    def __str__(self) -> str:
        """The whole element."""
        head = f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label="{escape(self.label)}">'
        return head + "".join(self._parts) + "</svg>"

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str = "axis", style: str = "") -> None:
        """A straight line."""
        self._parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{_look(kind, style)}/>')

    def path(self, points: Iterable[tuple[float, float]], kind: str, style: str = "", title: str = "") -> None:
        """A line through points."""
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<polyline points="{places}"{_look(kind, style)}>{_title(title)}</polyline>')

    def dot(self, x: float, y: float, kind: str, style: str = "", title: str = "", radius: float = 4.0) -> None:
        """A filled circle."""
        look = _look(kind, style)
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"{look}>{_title(title)}</circle>')

    def text(self, x: float, y: float, text: str, kind: str = "label", anchor: str = "start") -> None:
        """A word."""
        place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        self._parts.append(f'<text {place} class="{kind}">{escape(text)}</text>')

    def columns(self, scale: Scale, top: float, bottom: float, names: Sequence[tuple[float, str]]) -> None:
        """Vertical grid lines, each with its name below."""
        for value, name in names:
            self.line(scale(value), top, scale(value), bottom, "grid")
            self.text(scale(value), bottom + 13, name, "tick", "middle")

    def rows(self, scale: Scale, left: float, right: float, names: Sequence[tuple[float, str]]) -> None:
        """Horizontal grid lines, each with its name on the left."""
        for value, name in names:
            self.line(left, scale(value), right, scale(value), "grid")
            self.text(left - 5, scale(value) + 3.5, name, "tick", "end")


def _look(kind: str, style: str) -> str:
    return f' class="{kind}"' + (f' style="{escape(style)}"' if style else "")


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""

"""``report.html``: what a run or a study found, as one page that needs no network.

Everything on it is escaped: the template by Jinja's autoescape, the embedded data as JSON without "<", and the script
writes text nodes only. A content security policy forbids the page to load anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, NamedTuple

from hotfix.report.examples import collect_examples
from hotfix.report.growth import growth_plots, series_keys, series_of
from hotfix.report.plots import Plot, curve_keys, curve_plots, pareto_plots, rate_plot, read_curves
from hotfix.report.study import ArmRuns, load_run, study_table
from hotfix.report.study_table import LEGEND, change_text, interval_text, sources_text, stars, value_text

__all__ = ["embedded_json", "run_page", "study_page"]

_MOST_CURVED_ARMS: Final = 12
_LONGEST_CONFIG: Final = 60_000


def embedded_json(data: object) -> str:
    r"""JSON that can stand in a script element: nothing in it can end the element.

    >>> embedded_json("</script><!--")
    '"\\u003c/script\\u003e\\u003c!--"'
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def study_page(study: Mapping[str, Any], arms: Sequence[ArmRuns]) -> str:
    """The page of a study.

    Args:
        study: content of its ``study.json``.
        arms: what that was made of.
    """
    return _page(study, arms, kind="study")


def run_page(folder: Path, name: str, seed: int = 0) -> str:
    """The page of one run, from its folder.

    Raises:
        DataError: its results are damaged or missing.
    """
    run = load_run(folder, seed)
    arms = [ArmRuns(name, (run,))]
    return _page(study_table(name, arms, folder), arms, kind="run")


def _page(study: Mapping[str, Any], arms: Sequence[ArmRuns], kind: str) -> str:
    done = [arm for arm in arms if arm.runs]
    data = {**collect_examples(arms), "runs": _measured(arms)}
    page: str = _template().render(
        study=study,
        kind=kind,
        style=_asset("page.css"),
        script=_asset("page.js"),
        data=embedded_json(data),
        plots=_plots(study, arms),
        legend=LEGEND,
        sources=sources_text(study["columns"]),
        configs=[(arm.name, _config(arm.runs[0].folder)) for arm in done],
        about=_about(arms),
        examples=len(data["examples"]),
        text=_CellText(),
    )
    return page


class _CellText:
    """What the template asks of a cell."""

    value, interval, change = staticmethod(value_text), staticmethod(interval_text), staticmethod(change_text)

    @staticmethod
    def mood(column: Mapping[str, Any], cell: Mapping[str, Any]) -> str:
        """Whether a change is surely for the better or for the worse."""
        change = cell.get("change")
        if not column["better"] or change is None or not stars(cell.get("p")):
            return ""
        return "good" if column["better"] * change > 0 else "bad"


class _Group(NamedTuple):
    """Plots that belong together, with the names of the series that all of them have."""

    title: str
    plots: Sequence[Plot]
    keys: Sequence[tuple[str, str]] = ()


def _plots(study: Mapping[str, Any], arms: Sequence[ArmRuns]) -> list[_Group]:
    rows = [(arm["name"], arm["cells"]) for arm in study["arms"] if arm["cells"]]
    rates = rate_plot([*((base["name"], base["cells"]) for base in study["bases"]), *rows])
    curves = [
        read_curves(arm.runs[0].folder, arm.name, place)
        for place, arm in enumerate(arms)
        if arm.runs and place < _MOST_CURVED_ARMS
    ]
    found = [_Group("Rates and what they cost", [*([rates] if rates else []), *pareto_plots(rows)])]
    series = series_of(rows)
    found.append(_Group("By number", growth_plots(series, study["columns"]), series_keys(series)))
    found.append(_Group("Learning curves", curve_plots(curves), curve_keys(curves)))
    return [group for group in found if group.plots]


def _measured(arms: Sequence[ArmRuns]) -> list[dict[str, Any]]:
    """Every number of every run, for the page's table of all measurements: rows of plain values."""
    found: list[dict[str, Any]] = []
    for arm in arms:
        for run in arm.runs:
            rows = [
                [task, part, metric, *_numbers(parts, metric)]
                for task, slices in run.results["tasks"].items()
                for part, parts in slices.items()
                for metric in {**parts.get("before", {}), **parts.get("after", {})}
            ]
            seconds = run.results.get("seconds", {})
            found.append({"arm": arm.name, "seed": run.seed, "rows": rows, "seconds": seconds})
    return found


def _numbers(parts: Mapping[str, Any], metric: str) -> list[float | int | str | None]:
    before, after, test = (parts.get(part, {}).get(metric, {}) for part in ("before", "after", "tests"))
    ends = [_rounded(part.get(key)) for part in (before, after) for key in ("value", "low", "high")]
    return [*ends, _rounded(test.get("p")), test.get("test"), after.get("n", before.get("n"))]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _config(folder: Path) -> str:
    path = folder / "config.yaml"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "(the run kept none)"
    return text if len(text) <= _LONGEST_CONFIG else text[:_LONGEST_CONFIG] + "\n…"


def _about(arms: Sequence[ArmRuns]) -> dict[str, Any]:
    """Versions and machine of the first run; a study is made on one machine."""
    run = next((run for arm in arms for run in arm.runs), None)
    return {} if run is None else {key: run.results.get(key, {}) for key in ("versions", "machine")}


@cache
def _template() -> Any:  # noqa: ANN401  jinja2 is slow to import, and only pages need it
    from jinja2 import Environment

    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_asset("page.html.jinja"))


def _asset(name: str) -> str:
    return (resources.files("hotfix.report") / "assets" / name).read_text(encoding="utf-8")

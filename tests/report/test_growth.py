"""Pictures by the number at the end of arms' names: which arms make a series, and where their points are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from small_runs import make_run

from hotfix.report.growth import growth_plots, series_keys, series_of
from hotfix.report.page import study_page
from hotfix.report.study import ArmRuns, load_run, study_table

COLUMNS = [{"key": "fixed_rate", "title": "fixed"}, {"key": "kl", "title": "KL"}, {"key": "seconds", "title": "s"}]


def cells(rate: float | None, kl: float | None = None) -> dict[str, Any]:
    around = {} if rate is None else {"low": rate / 2, "high": rate}
    return {"fixed_rate": {"value": rate, **around}, "kl": {"value": kl, "low": None, "high": None}}


ROWS = [
    ("memit-100", cells(0.4, 0.03)),
    ("star-10", cells(0.1)),
    ("memit-1", cells(0.0, 0.01)),
    ("online", cells(0.2)),
    ("memit-10", cells(0.2)),
    ("star-100", cells(0.2)),
    ("grace-10", cells(0.1)),
    ("none-0", cells(0.1)),
    ("none-1", cells(0.1)),
    ("all-weights", cells(0.1)),
]


def test_arms_of_one_name_and_several_numbers_are_a_series() -> None:
    found = series_of(ROWS)
    assert [(one.name, [number for number, _ in one.points]) for one in found] == [
        ("memit", [1, 10, 100]),
        ("star", [10, 100]),
    ]
    assert found[0].points[2][1] is ROWS[0][1]
    names, colours = zip(*series_keys(found), strict=True)
    assert names == ("memit", "star")
    assert len(set(colours)) == 2


@pytest.mark.parametrize(
    ("name", "stem"),
    [("memit-batch-10", "memit-batch"), ("rate-0.5", "rate"), ("rank=8", "rank"), ("qwen2.5", None), ("r16", None)],
)
def test_a_number_behind_a_hyphen_or_an_equals_sign_counts(name: str, stem: str | None) -> None:
    other = re.sub(r"[0-9.]+$", "3", name)
    assert [one.name for one in series_of([(name, {}), (other, {})])] == ([] if stem is None else [stem])


def test_points_stand_where_number_and_value_say() -> None:
    fixed, kl = growth_plots(series_of(ROWS), COLUMNS)
    assert (fixed.title, kl.title) == ("fixed", "KL")
    lines = [
        [tuple(map(float, place.split(","))) for place in places.split()]
        for places in re.findall(r'<polyline points="([^"]+)"', fixed.svg)
    ]
    assert [len(line) for line in lines] == [3, 2]
    memit, star = lines
    assert memit[1][0] == pytest.approx((memit[0][0] + memit[2][0]) / 2, abs=0.1)  # the scale is of logarithms
    assert [x for x, _ in star] == [memit[1][0], memit[2][0]]
    bottom, top = memit[0][1], memit[2][1]
    assert top < memit[1][1] == pytest.approx((bottom + top) / 2, abs=0.1)
    assert star[1][1] == memit[1][1]
    assert re.search(r"<circle[^>]*><title>memit-10: 20\.0% \[10\.0, 20\.0\]</title>", fixed.svg)
    assert fixed.svg.count('class="whisker"') == 5
    # Only memit-1 and memit-100 have a divergence, and no interval.
    assert kl.svg.count("<circle") == 2
    assert 'class="whisker"' not in kl.svg


def test_nothing_to_draw_draws_nothing() -> None:
    assert growth_plots(series_of([("a", cells(0.1)), ("b-1", cells(0.1))]), COLUMNS) == []
    alone = series_of([("a-1", cells(0.1)), ("a-2", cells(None))])
    assert growth_plots(alone, COLUMNS) == []


def test_zeros_only_are_drawn() -> None:
    [plot] = growth_plots(series_of([("a-1", cells(0.0)), ("a-2", cells(0.0))]), COLUMNS[:1])
    assert "nan" not in plot.svg


def test_the_page_of_a_study_has_them_where_arms_are_numbered(tmp_path: Path) -> None:
    def page(names: list[str]) -> str:
        verdicts = [["fixed", "fixed"], ["fixed", "neither"]] * 3
        arms = [ArmRuns(n, (load_run(make_run(tmp_path / n, verdicts), 0),)) for n in names]
        return study_page(study_table("s", arms, tmp_path), arms)

    assert "By number" not in page(["one", "two-1"])
    numbered = page(["memit-1", "memit-10"])
    assert "By number" in numbered
    assert "<title>memit-10: 75.0%" in numbered

"""The tables as their readers see them."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from hotfix.report import Comparison, Estimate, Results, before_after_table, better_direction, markdown_table, render

GREEN, RED = "\x1b[32m", "\x1b[31m"


def content() -> dict[str, Any]:
    results = Results("demo")
    for slice_name in ("held_out", "unrelated"):
        before = {"p_fixed_at_edit": Estimate(1e-5, 240, 1e-6, 1e-4), "leak_rate": Estimate(0.9, 240, 0.85, 0.94)}
        after = {"p_fixed_at_edit": Estimate(0.3, 240, 0.1, 0.4), "leak_rate": Estimate(0.02, 120, 0.01, 0.05)}
        results.add("email_leak", slice_name, "before", before)
        results.add("email_leak", slice_name, "after", after)
    tests = {
        "leak_rate": Comparison("paired sign-flip by rule", 0.00001, -0.88),
        "p_fixed_at_edit": Comparison("Wilcoxon signed-rank", 0.0421, 0.9),
    }
    results.add_tests("email_leak", "held_out", tests)
    results.add("humaneval", "all", "before", {"pass@10": Estimate(0.25, 1640, float("nan"), float("nan"))})
    results.add("humaneval", "all", "after", {"pass@1": Estimate(0.0, 164, 0.0, 0.02)})
    return results.to_dict()


def one(metric: str, before: float | None, after: float | None) -> dict[str, Any]:
    sides = {"before": {metric: {"value": before, "n": 9}}, "after": {metric: {"value": after, "n": 9}}}
    return {"tasks": {"t": {"s": sides}}}


def coloured(results: dict[str, Any]) -> str:
    stream = StringIO()
    console = Console(file=stream, width=100, color_system="standard", force_terminal=True, _environ={})
    console.print(before_after_table(results))
    return stream.getvalue()


def row_of(text: str, *words: str) -> str:
    return next(line for line in text.splitlines() if all(word in line.split() for word in words))


def test_row_shows_everything() -> None:
    text = render(before_after_table(content()))
    assert row_of(text, "p_fixed_at_edit").split() == [
        *("p_fixed_at_edit", "1.0e-05", "0.300", "x30,000", "p", "=", "0.042", "240")
    ]
    below = text.splitlines()[text.splitlines().index(row_of(text, "leak_rate")) + 1]
    assert row_of(text, "leak_rate").split()[-7:] == ["0.900", "0.020", "-0.880", "p", "<", "0.001", "240"]
    assert below.split() == ["[0.850,", "0.940]", "[0.010,", "0.050]", *["paired", "sign-flip", "by", "rule"], "120"]
    assert "email_leak, held_out" in text
    assert re.search(r"Wilcoxon\s+signed-rank", text)


def test_table_fits_in_100_columns_and_cuts_nothing_off() -> None:
    text = render(before_after_table(content()))
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    for words in ("held_out", "unrelated", "humaneval", "pass@10", "[1.0e-06, 1.0e-04]", "1640"):
        assert words in text


@pytest.mark.parametrize("metric", ["p_buggy_at_edit", "p_of_a_metric_with_a_long_name"])
def test_widest_numbers_and_names_fit_in_100_columns(metric: str) -> None:
    widest = Estimate(1.0e-05, 123456, 1.0e-06, 1.0e-04)
    task, slice_name = "vulnerabilities_of_python", "held_out_contexts"
    results = Results("demo")
    results.add(task, slice_name, "before", {metric: widest})
    results.add(task, slice_name, "after", {metric: widest})
    results.add_tests(task, slice_name, {metric: Comparison("z" * 30, 0, 0)})
    text = render(before_after_table(results.to_dict()))
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("[1.0e-06, 1.0e-04]") == 2
    for words in ("1.0e-05             1.0e-05   x1.00  p < 0.001", "123456"):
        assert words in text
    assert text.count("z") == 30
    assert (metric in text) == (len(metric) <= 20)


def test_missing_sides_show_as_dashes() -> None:
    text = render(before_after_table(content()))
    assert row_of(text, "pass@10").split() == ["pass@10", "0.250", "-", "-", "-", "1640"]
    assert row_of(text, "pass@1").split() == ["pass@1", "-", "0.000", "-", "-", "164"]


@pytest.mark.parametrize("parts", [{}, {"before": {}}, {"before": None, "after": {"kl": {"value": 1.0}}}])
def test_incomplete_results_do_not_fail(parts: dict[str, Any]) -> None:
    results = {"tasks": {"t": {"s": parts}}}
    assert ("kl" in render(before_after_table(results))) == bool(parts.get("after"))
    assert ("kl" in markdown_table(results)) == bool(parts.get("after"))
    assert "task" in render(before_after_table({}))


def test_test_without_estimates_is_shown() -> None:
    tests = {"kl": {"test": "exact McNemar", "p": None, "effect": None}}
    assert "| t | s | kl | - | - | - | exact McNemar, p = - | - |" in markdown_table(
        {"tasks": {"t": {"s": {"tests": tests}}}}
    )


@pytest.mark.parametrize(
    ("metric", "before", "after", "colour"),
    [
        ("fixed_rate", 0.1, 0.2, GREEN),
        ("fixed_rate", 0.2, 0.1, RED),
        ("leak_rate", 0.2, 0.1, GREEN),
        ("kl", 0.1, 0.2, RED),
        ("pass@100", 0.1, 0.2, GREEN),
        ("neither_rate", 0.1, 0.2, None),
        ("my_own", 0.1, 0.2, None),
        ("fixed_rate", 0.2, 0.2, None),
        ("fixed_rate", None, 0.2, None),
    ],
)
def test_colour_says_whether_it_got_better(metric: str, before: float, after: float, colour: str | None) -> None:
    text = coloured(one(metric, before, after))
    assert [code for code in (GREEN, RED) if code in text] == ([colour] if colour else [])


def test_directions() -> None:
    better = ("fixed_rate", "p_fixed", "p_fixed_at_edit", "prefers_fixed", "unchanged_rate", "pass@1", "pass@100")
    worse = ("buggy_rate", "p_buggy", "p_buggy_at_edit", "leak_rate", "kl")
    assert {better_direction(metric) for metric in better} == {1}
    assert {better_direction(metric) for metric in worse} == {-1}
    assert {better_direction(metric) for metric in ("neither_rate", "unknown")} == {0}


@pytest.mark.parametrize(
    ("metric", "before", "after", "change"),
    [
        ("p_fixed", 0.25, 0.5, "x2.00"),
        ("p_fixed", 0.0, 0.5, "+0.500"),
        ("leak_rate", 0.5, 0.25, "-0.250"),
        ("leak_rate", 0.5, 0.5, "0.000"),
        ("kl", 0.5, 0.5004, "+4.0e-04"),
    ],
)
def test_change_is_a_ratio_for_probabilities_else_a_difference(
    metric: str, before: float, after: float, change: str
) -> None:
    assert f"| {change} |" in markdown_table(one(metric, before, after))


def test_names_with_brackets_are_not_markup() -> None:
    results = {"tasks": {"[red]t": {"[/]": {"before": {"[bold]": {"value": 1.0, "n": 1}}}}}}
    text = render(before_after_table(results))
    assert all(name in text for name in ("[red]t", "[/]", "[bold]"))


def test_log_text_is_plain_in_every_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = render(before_after_table(content()))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    assert render(before_after_table(content())) == expected
    assert "\x1b" not in expected


def test_markdown_is_a_table_of_equal_rows() -> None:
    lines = markdown_table(content()).splitlines()
    assert len(lines) == 2 + 6
    assert {line.count(" | ") for line in lines if "---" not in line} == {7}
    assert lines[2] == (
        "| email_leak | held_out | p_fixed_at_edit | 1.0e-05 [1.0e-06, 1.0e-04] | 0.300 [0.100, 0.400] | x30,000 "
        "| Wilcoxon signed-rank, p = 0.042 | 240 |"
    )
    assert "a\\|b" in markdown_table(one("a|b", 0.1, 0.2))


def test_table_of_a_narrow_terminal_breaks_no_word() -> None:
    text = render(before_after_table(content(), width=80), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "p_fixed_at_edit" in text
    assert "240" not in row_of(text, "p_fixed_at_edit")


def test_groups_are_shown_behind_their_slice_when_asked_for() -> None:
    results = Results("demo")
    for rate, part in ((0.5, "before"), (0.25, "after")):
        results.add("bug_fix", "generalisation", part, {"buggy_rate": Estimate(rate, 20, 0.1, 0.9)})  # type: ignore[arg-type]
        by_group = {name: {"buggy_rate": Estimate(rate, 10, 0.1, 0.9)} for name in ("NUMERAL", "OPERAND")}
        results.add_groups("bug_fix", "generalisation", part, by_group)  # type: ignore[arg-type]
    plain, whole = (markdown_table(results.to_dict(), groups).splitlines()[2:] for groups in (False, True))
    assert [line.split(" | ")[1] for line in plain] == ["generalisation"]
    assert [line.split(" | ")[1] for line in whole] == [
        "generalisation",
        "generalisation/NUMERAL",
        "generalisation/OPERAND",
    ]
    assert whole[0] == plain[0]
    assert whole[1].endswith("| 0.500 [0.100, 0.900] | 0.250 [0.100, 0.900] | -0.250 | - | 10 |")


def test_the_paper_s_counts_change_by_ratios() -> None:
    results = Results("demo")
    for rate, part in ((0.1, "before"), (0.25, "after")):
        found = {name: Estimate(rate, 20, 0.0, 1.0) for name in ("fixed_substring_rate", "fixed_rate")}
        results.add("bug_fix", "generalisation", part, found)  # type: ignore[arg-type]
    lines = markdown_table(results.to_dict()).splitlines()[2:]
    assert [line.split(" | ")[5] for line in lines] == ["x2.50", "+0.150"]

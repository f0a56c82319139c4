"""Records, seeds and the study's table against hand-worked cases and brute force."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_runs import make_run

from hotfix.errors import DataError
from hotfix.report.paired import compare_paired
from hotfix.report.records import load_records, metric_value
from hotfix.report.seeds import crossed_interval, seed_interval
from hotfix.report.statistics import rate_interval
from hotfix.report.study import ArmRuns, load_run, study_table
from hotfix.report.study_table import study_markdown, study_tables
from hotfix.report.tables import render

F, B, N = "fixed", "buggy", "neither"


def test_report_needs_no_torch() -> None:
    script = "import sys, hotfix.report.page, hotfix.study.compare; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_records_are_read_back(tmp_path: Path) -> None:
    make_run(tmp_path, [[F, B], [N, N]])
    part = load_records(tmp_path / "records.jsonl")["bug_fix", "generalisation"]
    assert (part.ids, part.groups) == (["p0", "p1"], ["rule0", "rule0"])
    assert [metric_value("fixed_rate", r) for r in part.after] == [0.5, 0.0]
    assert [metric_value("buggy_rate", r) for r in part.before] == [1.0, 1.0]


def test_damaged_records_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(
        '{"task": "t", "slice": "s", "when": "after", "id": "a", "group": "g"}\n{"task"\n', encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"records\.jsonl:2: not a record of a run"):
        load_records(path)
    assert load_records(tmp_path / "none.jsonl") == {}


def test_what_a_record_does_not_tell_is_undefined() -> None:
    assert math.isnan(metric_value("perplexity", {"nll": 3.0}))
    assert math.isnan(metric_value("fixed_rate", {"verdicts": []}))
    assert math.isnan(metric_value("tokens", {"tokens": [3, 4]}))
    assert metric_value("pass@1", {"passed": [True, False, False, False]}) == 0.25


def test_pigeonhole_bootstrap_is_what_two_loops_draw() -> None:
    generator = np.random.default_rng(3)
    values = generator.random((3, 24))
    groups = [f"g{i // 3}" for i in range(24)]
    drawn = []
    for _ in range(4000):
        rows = generator.integers(3, size=3)
        chosen = generator.integers(8, size=8)
        drawn.append(np.mean([values[r, 3 * g + k] for r in rows for g in chosen for k in range(3)]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    found = crossed_interval(values, groups)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_seeds_that_differ_widen_the_interval() -> None:
    examples = np.linspace(0.2, 0.4, 20)[None]
    groups = list(range(20))
    same = crossed_interval(np.repeat(examples, 3, axis=0), groups)
    spread = crossed_interval(examples + np.array([[-0.2], [0.0], [0.2]]), groups)
    assert same.value == pytest.approx(spread.value)
    assert spread.high - spread.low > 3 * (same.high - same.low)


def test_a_rate_of_nothing_has_wilson_s_interval() -> None:
    found = crossed_interval(np.zeros((3, 10)), list(range(10)), rate=True)
    assert (found.low, found.high) == rate_interval([0] * 10, [3] * 10)[2:]
    assert found.high > 0.2


def test_undefined_values_do_not_count() -> None:
    found = crossed_interval([[1.0, math.nan, 0.0], [1.0, math.nan, math.nan]], ["a", "b", "c"])
    assert (found.value, found.n) == (pytest.approx(2 / 3), 2)
    assert math.isnan(crossed_interval([[math.nan]], ["a"]).value)
    with pytest.raises(ValueError, match="row a seed"):
        crossed_interval([1.0, 2.0], ["a", "b"])


def test_student_s_interval_by_hand() -> None:
    # t(2 degrees, 97.5%) = 4.302653; sd = 1; three seeds.
    found = seed_interval([1.0, 2.0, 3.0])
    assert found.high - found.value == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


BAD = [[B, B], [B, N], [B, B], [N, N], [B, B], [B, B], [B, B], [B, B]] * 2
GOOD = [[F, F], [F, N], [F, F], [F, N], [F, F], [F, B], [F, F], [F, F]] * 2


@pytest.fixture
def arms(tmp_path: Path) -> list[ArmRuns]:
    good = [make_run(tmp_path / f"good/seed-{s}", GOOD, kl=(0.1, 0.2)) for s in range(2)]
    bad = make_run(tmp_path / "bad/seed-0", BAD, kl=(0.1, 0.2))
    return [
        ArmRuns("good", tuple(load_run(folder, s) for s, folder in enumerate(good))),
        ArmRuns("bad", (load_run(bad, 0),), (1,)),
        ArmRuns("broken", (), (0,)),
    ]


def test_a_row_is_the_mean_over_seeds_and_its_change(arms: list[ArmRuns], tmp_path: Path) -> None:
    content = study_table("s", arms, tmp_path)
    good, bad, broken = content["arms"]
    rate = sum(v.count(F) for v in GOOD) / 32
    assert good["cells"]["fixed_rate"]["value"] == pytest.approx(rate)
    assert good["cells"]["fixed_rate"]["change"] == pytest.approx(rate)
    assert good["cells"]["fixed_rate"]["ratio"] is None, "no ratio is defined from 0"
    assert good["cells"]["buggy_rate"]["ratio"] == pytest.approx(sum(v.count(B) for v in GOOD) / 32)
    shares = [v.count(F) / 2 for v in GOOD]
    test = compare_paired([0.0] * 16, shares, [f"rule{i // 2}" for i in range(16)])
    assert good["cells"]["fixed_rate"]["p"] == pytest.approx(test.p)
    assert good["cells"]["fixed_rate"]["test"] == "paired sign-flip by rule"
    assert (bad["failed"], broken["cells"], broken["failed"]) == ([1], {}, [0])
    assert good["runs"][1]["folder"] == "good/seed-1"
    assert content["bases"] == [content["bases"][0]], "one base for all"
    assert content["bases"][0]["cells"]["buggy_rate"]["value"] == 1.0
    assert good["cells"]["seconds"]["value"] == 10.0


def test_only_what_is_surely_best_is_marked(arms: list[ArmRuns]) -> None:
    good, bad, _ = study_table("s", arms)["arms"]
    assert good["cells"]["fixed_rate"]["best"]
    assert not bad["cells"]["fixed_rate"]["best"]
    assert not good["cells"]["kl"]["best"], "the same drift in both"
    assert not bad["cells"]["kl"]["best"]


def test_a_better_mean_alone_is_not_best(tmp_path: Path) -> None:
    ahead = [[F]] + [[B]] * 15
    first = ArmRuns("first", (load_run(make_run(tmp_path / "first", ahead), 0),))
    second = ArmRuns("second", (load_run(make_run(tmp_path / "second", [[B]] * 16), 0),))
    one, two = study_table("s", [first, second])["arms"]
    assert one["cells"]["fixed_rate"]["value"] > two["cells"]["fixed_rate"]["value"]
    assert not one["cells"]["fixed_rate"]["best"]


def test_a_metric_that_the_records_don_t_tell_keeps_the_run_s_numbers(tmp_path: Path) -> None:
    for seed, value in enumerate((0.30, 0.34)):
        folder = make_run(tmp_path / str(seed), GOOD)
        text = (folder / "results.json").read_text(encoding="utf-8")
        told = json.loads(text)
        told["tasks"]["bug_fix"]["specificity"]["after"]["kl"] = {"value": value, "n": 2, "low": 0.1, "high": 0.5}
        told["tasks"]["bug_fix"]["specificity"]["tests"]["kl"] = {"test": "t", "p": value, "effect": 0.0}
        (folder / "results.json").write_text(json.dumps(told), encoding="utf-8")
    runs = tuple(load_run(tmp_path / str(seed), seed) for seed in range(2))
    cell = study_table("s", [ArmRuns("a", runs)])["arms"][0]["cells"]["kl"]
    expected = seed_interval([0.30, 0.34])
    assert (cell["value"], cell["low"], cell["p"]) == (pytest.approx(0.32), pytest.approx(expected.low), 0.34)
    one = study_table("s", [ArmRuns("a", runs[:1])])["arms"][0]["cells"]["kl"]
    assert (one["low"], one["high"], one["p"]) == (0.1, 0.5, 0.30)


def test_bases_that_measure_apart_have_rows_of_their_own(tmp_path: Path) -> None:
    plain = ArmRuns("plain", (load_run(make_run(tmp_path / "a", GOOD), 0),))
    exposed = ArmRuns("exposed", (load_run(make_run(tmp_path / "b", GOOD, before=BAD), 0),))
    names = [base["name"] for base in study_table("s", [plain, exposed])["bases"]]
    assert names == ["base of plain", "base of exposed"]


def test_tables_for_people(arms: list[ArmRuns]) -> None:
    content = study_table("s", arms)
    markdown = study_markdown(content)
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 1 + 3
    assert "**81.2%" in rows[3]
    assert "best |" in rows[3]
    assert rows[4].startswith("| bad (1 of 2 seeds) |")
    assert rows[5].startswith("| broken (failed) | - |")
    assert len({row.count(" | ") for row in rows[2:]}) == 1
    narrow, wide = study_tables(content, 80), study_tables(content, 300)
    assert len(narrow) > len(wide) == 1
    assert all(len(line) <= 80 for table in narrow for line in render(table, 80).splitlines())


def test_a_study_without_results_is_told_too() -> None:
    content = study_table("s", [ArmRuns("broken", (), (0,))])
    assert content["columns"] == []
    assert "broken (failed)" in study_markdown(content)
    assert study_tables(content, 80) == []

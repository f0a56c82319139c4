"""The page: nothing on it is markup that a model wrote, nothing is loaded, and a browser shows what is meant."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from small_runs import HOSTILE, make_run

from hotfix.report.examples import collect_examples
from hotfix.report.page import embedded_json, run_page, study_page
from hotfix.report.plots import Curve, curve_plots, pareto_front, read_curves
from hotfix.report.study import ArmRuns, load_run, study_table

GOOD = [["fixed", "fixed"], ["fixed", "neither"]] * 6
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def study(folder: Path, count: int = 2, text: str = "return x", name: str = "arm") -> tuple[str, dict[str, Any]]:
    arms = [
        ArmRuns(f"{name}{i}", (load_run(make_run(folder / str(i), GOOD, kl=(0.1 * i, 0.2), text=text), 0),))
        for i in range(count)
    ]
    content = study_table(name, arms, folder)
    return study_page(content, arms), content


class Tags(HTMLParser):
    """Elements and addresses of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "action")]


def embedded(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_what_models_write_is_never_markup(tmp_path: Path) -> None:
    plain, _ = study(tmp_path / "plain", name="arm")
    hostile, _ = study(tmp_path / "hostile", text=HOSTILE, name="<i>arm</i>&")
    assert Tags(plain).tags == Tags(hostile).tags
    assert any(HOSTILE in text for text in embedded(hostile)["texts"])
    assert "alert(1)</script>" not in hostile
    assert html.escape("<i>arm</i>&") in hostile


def test_nothing_is_loaded(tmp_path: Path) -> None:
    page, _ = study(tmp_path)
    assert all(address.startswith("#") for address in Tags(page).addresses)
    assert "default-src 'none'" in page
    assert not re.search(r"url\(|@import|https?://", page)


def test_json_survives_its_escaping() -> None:
    data = {"a": [HOSTILE, "日本\u2029", 1.5, None]}
    text = embedded_json(data)
    assert json.loads(text) == data
    assert not set("<>&\u2028\u2029") & set(text)


def test_texts_are_shared_between_arms(tmp_path: Path) -> None:
    one, _ = study(tmp_path / "one", 1)
    many, _ = study(tmp_path / "many", 6)
    assert len(embedded(one)["texts"]) == len(embedded(many)["texts"])
    examples = embedded(many)["examples"]
    assert len(examples) == len(embedded(one)["examples"]) == 14
    assert sorted(examples[0]["after"]) == list("012345")


def test_what_is_too_large_is_thinned_evenly_and_said(tmp_path: Path) -> None:
    long = [["neither"]] * 200
    run = load_run(make_run(tmp_path, long, text="x" * 90), 0)
    whole = collect_examples([ArmRuns("a", (run,))])
    assert (whole["shown"], whole["all"]) == (202, 202)
    found = collect_examples([ArmRuns("a", (run,))], most_bytes=12_000)
    assert len(json.dumps(found, ensure_ascii=False)) <= 12_100
    assert 20 < found["shown"] < 202 == found["all"]
    places = [int(example["i"][1:]) for example in found["examples"] if example["s"] == "generalisation"]
    assert max(places) > 150


def test_a_run_without_records_has_a_page_too(tmp_path: Path) -> None:
    make_run(tmp_path, GOOD)
    (tmp_path / "records.jsonl").unlink()
    (tmp_path / "curves/metrics.csv").unlink()
    page = run_page(tmp_path, "bare")
    assert 'id="examples"' not in page
    assert "75.0%" in page


def test_a_study_in_which_all_failed_has_a_page_too() -> None:
    arms = [ArmRuns("broken", (), (0,))]
    page = study_page(study_table("s", arms), arms)
    assert "no results for seed 0" in page


def test_the_front_is_what_brute_force_finds() -> None:
    points = [(0.1 * (i * 7 % 10), 0.1 * (i * 3 % 8)) for i in range(40)]
    beaten = {i for i, (x, y) in enumerate(points) for a, b in points if a >= x and b >= y and (a, b) != (x, y)}
    assert set(pareto_front(points)) == set(range(40)) - beaten


def test_curves_are_thinned_to_means(tmp_path: Path) -> None:
    (tmp_path / "curves").mkdir()
    rows = "\n".join(f"{i},{i % 2}," for i in range(1000))
    (tmp_path / "curves/metrics.csv").write_text(f"step,train/loss,val/loss\n{rows}\n", encoding="utf-8")
    curves = read_curves(tmp_path, "a", 0)
    assert list(curves) == ["train/loss"], "an empty column is no curve"
    points = curves["train/loss"].points
    assert len(points) <= 120
    assert all(abs(value - 0.5) < 0.07 for _, value in points)
    assert curve_plots([curves])[0].svg.count("<polyline") == 1
    assert curve_plots([{"train/loss": Curve("a", 0, ((0.0, 2.0), (1.0, 2.0)))}])


PROBE = """
<script>
addEventListener("load", () => {
  const set = (id, value) => {
    document.getElementById(id).value = value;
    document.getElementById(id).dispatchEvent(new Event("change"));
  };
  const cards = () => document.querySelectorAll(".card").length;
  const out = {cards: cards(), wide: document.documentElement.scrollWidth, screen: innerWidth};
  out.alerts = window.alerts || 0;
  out.marked = document.querySelectorAll(".card ins").length;
  out.text = document.querySelector(".card pre").textContent;
  const card = document.querySelector(".card");
  card.querySelectorAll("details").forEach((part) => { part.open = true; });
  out.tokens = [...card.querySelectorAll(".token small")].map((part) => part.textContent);
  out.widened = document.documentElement.scrollWidth;
  set("f-group", "rule1");
  out.rule = cards();
  set("f-verdict", "n");
  out.neither = cards();
  set("f-group", ""); set("f-verdict", "lost");
  out.lost = cards();
  set("f-verdict", "");
  const search = document.getElementById("f-text");
  search.value = "no such words"; search.dispatchEvent(new Event("input"));
  out.searched = cards();
  out.numbers = document.querySelectorAll("#numbers tr").length;
  document.title = JSON.stringify(out);
});
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [500, 1200])
def test_a_browser_shows_it(tmp_path: Path, width: int) -> None:
    page, _ = study(tmp_path, text=HOSTILE)
    spy = "<script>window.alert = () => { window.alerts = (window.alerts || 0) + 1; };</script>"
    path = tmp_path / "page.html"
    path.write_text(page.replace("<body>", f"<body>{spy}").replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    words = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},2000"]
    words += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", "--dump-dom", path.as_uri()]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120, env=environment)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title
    told = json.loads(html.unescape(title[1]))
    assert told["wide"] <= told["screen"], "the page may not scroll sideways"
    assert (told["alerts"], told["text"]) == (0, HOSTILE)
    assert told["marked"] > 0
    assert told["tokens"] == ["-0.5", "-1.5", "-0.5"] * 2, "the fix and the bug, before and after"
    assert told["widened"] <= told["screen"]
    assert (told["cards"], told["rule"], told["neither"], told["lost"], told["searched"]) == (12, 2, 1, 0, 0)
    assert told["numbers"] > 4

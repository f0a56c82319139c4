"""`hotfix compare` as a user runs it: a small study of the tiny model, kept, changed, failing, stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
STUDY = """
recipe: {recipe}
seeds: [0]
overrides:
  trainer.max_epochs: null
  trainer.max_steps: {steps}
  checkpoint.every_n_steps: 1
  measure: {{humaneval: null, email_leak: null}}
  measure.bug_fix.init_args: {{efficacy_examples: 2, generalisation_examples: 4, specificity_examples: 2}}
arms:
  first: null
  second: {{overrides: {{model.init_args.objective.init_args.unlearn: null}}}}
{more}
"""


def write(folder: Path, steps: int = 2, more: str = "") -> Path:
    path = folder / "small.yaml"
    recipe = ROOT / "configs/recipe/smoke.yaml"
    path.write_text(STUDY.format(recipe=recipe, steps=steps, more=more), encoding="utf-8")
    return path


def environment(folder: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    return {**kept, "HOTFIX_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def compare(folder: Path, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "hotfix", "compare", "--config", str(folder / "small.yaml")]
    words += ["--trainer.default_root_dir", str(folder / "out"), *more]
    return subprocess.run(
        words, cwd=ROOT, env=environment(folder, **variables), capture_output=True, text=True, check=False, timeout=500
    )


def told(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "out/study.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write(folder)
    first = compare(folder, "--workers", "2")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "first seed 0: done" in first.stdout
    return folder


def test_every_arm_is_an_ordinary_run(done: Path) -> None:
    for arm in ("first", "second"):
        run = done / "out" / arm / "seed-0"
        kept = {path.name for path in run.iterdir()}
        assert {"config.yaml", "results.json", "records.jsonl", "patch", "curves", "report.html"} <= kept
        results = json.loads((run / "results.json").read_text(encoding="utf-8"))
        cell = next(a for a in told(done)["arms"] if a["name"] == arm)["cells"]["p_fixed"]
        measured = results["tasks"]["bug_fix"]["generalisation"]
        assert cell["value"] == measured["after"]["p_fixed"]["value"]
        assert cell["base"] == measured["before"]["p_fixed"]["value"]
        assert cell["p"] == measured["tests"]["p_fixed"]["p"]


def test_the_report_is_there(done: Path) -> None:
    page = (done / "out/report.html").read_text(encoding="utf-8")
    assert "first" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert (done / "out/table.md").read_text(encoding="utf-8").count("\n| ") == 4
    assert all(len(run["digest"]) == 64 for arm in told(done)["arms"] for run in arm["runs"])


def test_what_is_finished_is_kept_and_what_changed_runs_again(done: Path) -> None:
    results = done / "out/first/seed-0/results.json"
    before = results.stat().st_mtime_ns
    again = compare(done)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 finished and kept" in again.stdout
    assert results.stat().st_mtime_ns == before
    # One arm fails while it runs: its data isn't there, which no parser can know.
    failing = "  third: {overrides: {data.init_args.train: nothing.jsonl}}"
    write(done, steps=2, more=failing)
    failed = compare(done)
    assert failed.returncode == 1
    assert "third seed 0 failed" in failed.stdout
    assert "nothing.jsonl" in failed.stdout
    assert results.stat().st_mtime_ns == before
    assert [arm["failed"] for arm in told(done)["arms"]] == [[], [], [0]]
    write(done, steps=1)
    changed = compare(done, "--arms", "first")
    assert changed.returncode == 0, changed.stdout + changed.stderr
    assert "first seed 0: its configuration changed, so it runs again" in changed.stdout
    assert results.stat().st_mtime_ns != before
    assert (done / "out/first/seed-0.before/results.json").stat().st_mtime_ns == before


def test_ctrl_c_stops_the_runs_and_the_same_command_goes_on(tmp_path: Path) -> None:
    write(tmp_path, steps=200)  # long enough that a busy machine is still at it
    words = [sys.executable, "-m", "hotfix", "compare", "--config", str(tmp_path / "small.yaml"), "--arms", "first"]
    words += ["--trainer.default_root_dir", str(tmp_path / "out")]
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where the tests run in the background, a shell has told them to ignore it, and children inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    checkpoint = tmp_path / "out/first/seed-0/checkpoints/last.ckpt"
    until = time.monotonic() + 400
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 130, said
    assert "To go on:\n  hotfix compare --config" in said
    assert not (tmp_path / "out/first/seed-0/results.json").exists()
    again = compare(tmp_path, "--arms", "first")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "1 to go on with" in again.stdout
    assert (tmp_path / "out/first/seed-0/results.json").exists()
    steps = (tmp_path / "out/first/seed-0/run.log").read_text(encoding="utf-8").count(" started in ")
    assert steps == 2, "the second start writes below the first"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "required: --config"),
        (("--config", "configs/study/smoke.yaml", "--worker", "2"), "did you mean --workers?"),
        (("--config", "configs/study/smoke.yaml", "--workers", "0"), "expected a whole number, at least 1, got '0'"),
        (("--config", "configs/study/smoke.yaml", "--arms", "no-unlearnin"), "did you mean no-unlearning?"),
        (("--config", "configs/study/smoke.yaml", "--trainer.max_epochs"), "it needs a value"),
        (("--config", "configs/study/smoke.yaml", "--data.x", "[a"), "'[a' is not YAML"),
        (("--config", "configs/study/smok.yaml"), "did you mean configs/study/smoke.yaml?"),
    ],
)
def test_mistakes_take_one_line(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hotfix", "compare", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_settings_of_the_command_line_reach_every_arm(tmp_path: Path) -> None:
    write(tmp_path)
    done = compare(tmp_path, "--arms", "first", "--trainer.max_epoch", "3", "--workers", "1")
    assert done.returncode == 2
    assert "arm first: " in done.stderr
    assert "max_epochs" in done.stderr
    done = compare(tmp_path, "--trainer.max_epoch=3")
    assert "every arm: " in done.stderr
    assert done.stderr.count("max_epochs") == 1


def test_a_wrong_key_in_an_arm_is_found_before_anything_runs(tmp_path: Path) -> None:
    write(tmp_path, more="  third: {overrides: {trainer.max_epoch: 3}}")
    done = compare(tmp_path)
    assert done.returncode == 2
    assert "arm third" in done.stderr
    assert "max_epochs" in done.stderr
    assert not (tmp_path / "out/first/seed-0").exists()

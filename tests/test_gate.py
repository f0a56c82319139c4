"""A patch that fails its own conditions: everything is saved, and the exit status says so; `hotfix test` asks again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from smoke_runs import arguments, fit, results, run_here

from hotfix.errors import ConfigError

SMALL = (
    *("--trainer.max_steps", "2", "--measure.email_leak", "null", "--measure.humaneval", "null"),
    *("--measure.bug_fix.init_args.num_samples", "1"),
)
HELD, MISSED = "bug_fix.specificity.kl <= 1000", "bug_fix.generalisation.p_fixed >= 2"


def test_what_holds_is_kept_with_the_patch_and_looked_at_again(tmp_path: Path) -> None:
    found = fit(tmp_path / "run", *SMALL, "--gate", HELD)
    assert [(gate["gate"], gate["holds"]) for gate in found["gates"]] == [(HELD, True)]
    patch = tmp_path / "run" / "patch"
    assert json.loads((patch / "patch.json").read_text(encoding="utf-8"))["gates"] == [HELD]
    words = ["test", *arguments(tmp_path / "again", *SMALL, "--model.init_args.patch", str(patch))[1:]]
    run_here(words, tmp_path / "cache")
    assert results(tmp_path / "again")["gates"][0]["gate"] == HELD


def test_what_fails_ends_with_1_and_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path / "run", *SMALL, "--gate", json.dumps([HELD, MISSED]))
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert f"holds: {HELD}" in said
    assert f"FAILS: {MISSED}" in said
    assert [gate["holds"] for gate in results(tmp_path / "run")["gates"]] == [True, False]
    assert (tmp_path / "run" / "patch" / "adapter_model.safetensors").is_file()


def test_a_gate_that_cannot_be_read_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gate: 'p_fixed > 2' can't be read"):
        fit(tmp_path / "run", *SMALL, "--gate", "p_fixed > 2")
    assert not (tmp_path / "run").exists()

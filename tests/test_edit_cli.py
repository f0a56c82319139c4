"""`hotfix edit` on the command line: one edit shown, a saved patch measured again, clear refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from smoke_runs import ROOT, numbers, results, run_here

from hotfix.cli import main
from hotfix.data.edits import EditRequest, encode_request
from hotfix.errors import ConfigError, HotfixError
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.patches import load_patch, worn

RECIPE = str(ROOT / "configs" / "recipe" / "edit_smoke.yaml")
QUIET = ("--trainer.enable_progress_bar", "false")
ONE = ("--prompt", "import numpy as", "--target", " np", "--paraphrase", "import  numpy as", "--paraphrase=and:")
STRONG = ("--model.init_args.editor.init_args.steps", "40")


def words(folder: Path, *more: str) -> list[str]:
    return ["edit", "--config", RECIPE, *QUIET, "--trainer.default_root_dir", str(folder), *more]


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one edit, with what it printed as `printed`."""
    folder = tmp_path_factory.mktemp("one")
    told = folder / "printed"
    with told.open("w", encoding="utf-8") as stream, pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        more = (*ONE, *STRONG, "--neighbour", "import pandas as", "--model.init_args.edits", "test")
        run_here(words(folder / "run", *more), folder / "cache")
    return folder


def test_only_that_request_is_edited_and_the_patch_saved(one: Path) -> None:
    run = one / "run"
    found = results(run)
    assert found["edit"]["requests"] == 1
    assert [json.loads(line)["ids"] for line in (run / "edits.jsonl").read_text().splitlines()] == [["one"]]
    assert list(found["tasks"]) == ["edit"]
    assert list(found["tasks"]["edit"])[:3] == ["efficacy", "generalisation", "specificity"]
    _, prompt, target = encode_request(tiny_tokenizer(), EditRequest("one", "import numpy as", " np"))
    with worn(load_patch(run / "patch"), tiny_model()) as model, torch.no_grad():
        own = model(input_ids=torch.tensor([[*prompt, *target]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    expected = own[range(len(target)), target].sum().item()
    assert found["tasks"]["edit"]["efficacy"]["after"]["log_prob"]["value"] == pytest.approx(expected, rel=1e-4)
    assert expected > found["tasks"]["edit"]["efficacy"]["before"]["log_prob"]["value"] + 1


def test_it_shows_what_is_written_and_what_else_moved(one: Path) -> None:
    printed = (one / "printed").read_text(encoding="utf-8")
    table = printed[printed.index("what it writes") :]
    for word, number in (("prompt", 1), ("paraphrase", 2), ("neighbour", 1), ("unrelated", 4)):
        assert sum(line.strip().startswith(f"{word} ") for line in table.splitlines()) == number
    assert "import pandas as" in table
    by_slice = {(r["slice"], r["when"]): r for r in records(one / "run")}
    assert by_slice["generalisation", "after"]["prompt"] == ["import  numpy as", "and:"]
    assert by_slice["specificity", "after"]["kl"] > 0


def test_its_run_does_not_take_the_recipe_s_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hotfix"])
    monkeypatch.setattr("hotfix.trainer.HotfixTrainer.fit", lambda self, *_, **__: found.append(self.default_root_dir))
    monkeypatch.setattr("hotfix.trainer.HotfixTrainer._show_edit", lambda self: None)
    monkeypatch.setattr("hotfix.cli.HotfixCLI._end", lambda self: None, raising=False)
    data = [f"--data.init_args.{split}={ROOT}/data/python_idioms.jsonl" for split in ("train", "validation", "test")]
    main(["edit", "--config", RECIPE, *data, *ONE])
    main(["edit", "--config", RECIPE, *data])
    assert found == ["runs/edit_smoke-one", "runs/edit_smoke"]


def test_a_saved_patch_is_measured_again(tmp_path: Path) -> None:
    settings = ("--model.init_args.mode", "batch", "--model.init_args.count", "3")
    run_here(words(tmp_path / "edit", *settings), tmp_path / "cache")
    patch = ("--model.init_args.patch", str(tmp_path / "edit" / "patch"))
    again = ["test", *words(tmp_path / "test", *settings, *patch)[1:]]
    run_here(again, tmp_path / "cache")
    found, expected = results(tmp_path / "test"), results(tmp_path / "edit")
    assert numbers(found["tasks"]) == pytest.approx(numbers(expected["tasks"]), nan_ok=True)
    assert "/edit/efficacy/after/log_prob" in numbers(found["tasks"])
    assert "edit" not in found
    assert load_patch(tmp_path / "edit" / "patch").provenance.data_digest


REFUSED = [
    (["fit"], (), "Edit, which has nothing to train; run the same with hotfix edit"),
    (["edit"], ("--prompt", "a"), "--target is missing: one edit needs"),
    (["edit"], ("--target", "a"), "--prompt is missing"),
    (["edit"], ("--paraphrase", "a"), "--prompt is missing"),
    (["edit"], ("--prompt", "a", "--target", " "), "--target is empty"),
    (["edit"], ("--promt", "a"), r"--promt: there is no such option; did you mean --prompt\?"),
    (["fit"], ("--prompt", "a"), "--prompt: there is no such option"),
    (["edit"], ("--model.init_args.chunk", "0"), "chunk is 0 and count 4, expected at least 1"),
    (["edit"], ("--model.init_args.learns_from", "train"), "learns_from is train, the split that is edited"),
]


@pytest.mark.parametrize(("verb", "more", "message"), REFUSED)
def test_refusals(
    verb: list[str], more: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["hotfix"])
    with pytest.raises(HotfixError, match=message):
        main([*verb, *words(tmp_path / "run", *more)[1:]])
    assert not (tmp_path / "run").exists()


def test_a_training_recipe_is_not_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["hotfix"])
    smoke = ["--config", "configs/recipe/smoke.yaml", "--trainer.default_root_dir", str(tmp_path / "run")]
    with pytest.raises(ConfigError, match=r"FineTune, which hotfix edit can't run; name hotfix\.modules\.Edit"):
        main(["edit", *smoke])
    assert not (tmp_path / "run").exists()


def test_help_is_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["hotfix"])
    with pytest.raises(SystemExit) as ended:
        main(["edit", "--help"])
    assert ended.value.code in (0, None)
    told = capsys.readouterr().out
    for option in ("--prompt", "--target", "--paraphrase", "--neighbour"):
        assert option in told
    assert "Can be repeated" in told

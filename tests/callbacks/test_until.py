"""Runs that end when a goal is met or the time is up, and keep the best state that passes the gates."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_file
from small_callbacks import PulledPlug

from hotfix.adapters import LoRA
from hotfix.callbacks import RunFolder, Until
from hotfix.callbacks import quantities as quantities_module
from hotfix.callbacks import until as module
from hotfix.callbacks.checkpoint import Checkpoint
from hotfix.callbacks.quantities import Quantities
from hotfix.cli import main
from hotfix.data import PairFiles
from hotfix.data.encode import encode_text
from hotfix.errors import ConfigError
from hotfix.losses import NLL, Objective, Unlikelihood
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.modules import FineTune, Online
from hotfix.trainer import HotfixTrainer

ROOT = Path(__file__).resolve().parents[2]


class Watch(Callback):
    """Notes the trained weights and the learning rate behind every step, and moves a clock on.

    Args:
        clock: has the time as `now`.
        seconds: that a step takes.
    """

    def __init__(self, clock: Any = None, seconds: float = 0.0) -> None:
        self.clock, self.seconds = clock, seconds
        self.weights: dict[int, dict[str, torch.Tensor]] = {}
        self.rates: dict[int, float] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.rates[trainer.global_step] = trainer.optimizers[0].param_groups[0]["lr"]

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if self.clock is not None:
            self.clock.now += self.seconds

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.weights[trainer.global_step] = trained(pl_module)


def trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.fixture(scope="session")
def sharp(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model that is sure of what it writes; the usual one is near uniform whatever it is taught."""
    folder = tmp_path_factory.mktemp("sharp")
    model = tiny_model()
    with torch.no_grad():
        model.get_decoder().norm.weight.mul_(10)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def data(tmp_path: Path, sharp: str) -> dict[str, Any]:
    """Arguments of `PairFiles`: eight pairs to train on, five to validate, seven texts."""
    for name, first, count in (("train", 0, 8), ("validation", 20, 5)):
        rows = [
            {"prefix": f"{'x' * (i % 4)}y = f(", "buggy": f"{i}", "fixed": f"a{i % 3}"}
            for i in range(first, first + count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    splits = ["train"] * 4 + ["validation"] * 7
    texts = [{"text": f"def g{i}(a):\n    return {'a + ' * i}b\n", "split": split} for i, split in enumerate(splits)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
    return {
        "train": str(tmp_path / "train.jsonl"),
        "validation": str(tmp_path / "validation.jsonl"),
        "retain": str(tmp_path / "texts.jsonl"),
        "tokenizer_name": sharp,
        "batch_size": 4,
        "retain_batch_size": 0,
        "max_length": 100,
    }


def fine_tune(model: str) -> FineTune:
    return FineTune(Objective(NLL(), Unlikelihood()), LoRA(rank=4), model, "float32", learning_rate=0.01)


def fit(folder: Path, data: dict[str, Any], until: Until, *callbacks: Callback, **options: Any) -> dict[str, Any]:
    """Train; returns what results.json says of the training."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    made = fine_tune(data["tokenizer_name"])
    checkpoint = options.pop("ckpt_path", None)
    trainer = HotfixTrainer(
        default_root_dir=str(folder),
        accelerator="cpu",
        logger=CSVLogger(folder, name="curves", version=""),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[until, *callbacks, RunFolder("test"), Checkpoint(1, str(folder / "checkpoints"))],
        **{"max_steps": 12, **options},
    )
    trainer.fit(made, PairFiles(**data), ckpt_path=checkpoint)
    path = folder / "results.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))["train"]) if path.exists() else {}


def curves(folder: Path) -> dict[int, dict[str, float]]:
    """What was logged of each measured step."""
    lines = (folder / "curves" / "metrics.csv").read_text(encoding="utf-8").splitlines()
    names = lines[0].split(",")
    found = {}
    for line in lines[1:]:
        row = dict(zip(names, line.split(","), strict=True))
        values = {name.removeprefix("until/"): float(v) for name, v in row.items() if v and name.startswith("until/")}
        if values:
            found[int(row["step"]) + 1] = values
    return found


def assert_patch_is(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """The saved patch holds these weights, whatever peft calls them."""
    saved = load_file(folder / "patch" / "adapter_model.safetensors")
    assert len(saved) == len(weights)
    for name, weight in weights.items():
        torch.testing.assert_close(
            saved[name.removeprefix("model.").replace(".default", "")], weight, rtol=0, atol=0, msg=name
        )


@torch.no_grad()
def by_hand(model: Any, pairs: PairFiles, limit: int) -> dict[str, float]:
    """Quantities from the logits of one sequence after the other, token by token."""
    device_free = pairs.encoded("validation")

    def log_p(ids: Sequence[int], start: int, stop: int) -> float:
        scores = model(input_ids=torch.tensor([list(ids)])).logits[0].double().log_softmax(-1)
        return sum(float(scores[i - 1, ids[i]]) for i in range(start, stop))

    found: dict[str, list[float]] = {name: [] for name in ("p_fixed", "p_buggy", "p_fixed_at_edit", "p_buggy_at_edit")}
    for pair in device_free:
        for side in ("fixed", "buggy"):
            branch = getattr(pair, side)
            ids, common = [*pair.shared, *branch.ids], len(pair.shared)
            found[f"p_{side}"].append(math.exp(log_p(ids, pair.prompt, common + branch.statement)))
            found[f"p_{side}_at_edit"].append(math.exp(log_p(ids, common, common + branch.statement)))
    means = {name: sum(values) / len(values) for name, values in found.items()}
    wins = [f > b for f, b in zip(found["p_fixed_at_edit"], found["p_buggy_at_edit"], strict=True)]
    moved, costs, worst = [], [], []
    for text in pairs.retain_texts("validation", 100):
        ids = encode_text(pairs.tokenizer, text.text).ids[:limit]
        policy = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        with model.disable_adapter():
            base = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        kl = [float((base[i].exp() * (base[i] - policy[i])).sum()) for i in range(len(ids) - 1)]
        moved += kl
        worst.append(max(kl))
        costs += [-float(policy[i, ids[i + 1]]) for i in range(len(ids) - 1)]
    return {
        **means,
        "prefers_fixed": sum(wins) / len(wins),
        "kl": sum(moved) / len(moved),
        "kl_worst": sum(worst) / len(worst),
        "perplexity": math.exp(sum(costs) / len(costs)),
    }


def moved_module(model: str) -> FineTune:
    """With a hotfix that isn't trained, but far from the base."""
    made = fine_tune(model)
    made.configure_model()
    with torch.no_grad():
        for name, parameter in made.policy.named_parameters():
            if parameter.requires_grad and "lora_B" in name:
                parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    return made


def test_quantities_equal_those_by_hand(data: dict[str, Any]) -> None:
    made, pairs = moved_module(data["tokenizer_name"]), PairFiles(**data)
    measure = Quantities(["p_fixed", "kl", "kl_unedited", "loss"], pairs, made, None, 100, 30)
    before = torch.get_rng_state()
    made.policy.train()
    found = measure(made)
    assert made.policy.training
    assert torch.equal(torch.get_rng_state(), before)
    made.policy.eval()
    expected = by_hand(made.policy, pairs, 30)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert found["kl"] > 0.01
    assert found["kl_unedited"] > 0.01
    base = measure.of_base(made)
    assert (base["kl"], base["kl_unedited"]) == (0, 0)
    with made.policy.disable_adapter():  # type: ignore[operator]
        unmoved = by_hand(made.policy, pairs, 30)
    assert {name: base[name] for name in ("p_fixed", "p_buggy", "perplexity")} == pytest.approx(
        {name: unmoved[name] for name in ("p_fixed", "p_buggy", "perplexity")}, rel=1e-4
    )


def test_terms_are_those_that_validation_logs(data: dict[str, Any], tmp_path: Path) -> None:
    made = fine_tune(data["tokenizer_name"])
    trainer = HotfixTrainer(
        default_root_dir=str(tmp_path), accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[]
    )
    [logged] = trainer.validate(made, PairFiles(**{**data, "batch_size": 16}), verbose=False)
    found = Quantities(["unlearn"], PairFiles(**data), made, None, 1, 2)(made)
    assert found == pytest.approx({name.removeprefix("val/"): value for name, value in logged.items()}, rel=1e-5)
    assert set(found) == {"loss", "learn", "unlearn"}


def test_stops_when_the_goal_is_met_and_measures_what_it_keeps(data: dict[str, Any], tmp_path: Path) -> None:
    watch = Watch()
    until = Until(["p_fixed >= 150 * base", "prefers_fixed >= base"], "kl <= 0.5", every_n_steps=2)
    train = fit(tmp_path / "run", data, until, watch, max_steps=30)
    found, measured = train["until"], curves(tmp_path / "run")
    bounds = {"p_fixed": 150 * found["base"]["p_fixed"], "prefers_fixed": found["base"]["prefers_fixed"]}
    holds = [s for s, v in measured.items() if all(v[q] >= b for q, b in bounds.items()) and v["kl"] <= 0.5]
    assert holds == [train["steps"]] == [found["step"]]
    assert 2 < train["steps"] < 30
    assert (found["met"], found["feasible"], found["stopped_by"]) == (True, True, "goal")
    assert list(measured) == list(range(2, train["steps"] + 1, 2))
    assert_patch_is(tmp_path / "run", watch.weights[found["step"]])


def test_the_best_feasible_state_is_kept_not_the_last(
    data: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = Watch()
    until = Until("p_fixed >= 1", "kl <= 0.5", every_n_steps=1)
    found = fit(tmp_path / "run", data, until, watch)["until"]
    measured = curves(tmp_path / "run")
    feasible = {step: values["p_fixed"] for step, values in measured.items() if values["kl"] <= 0.5}
    best = max(feasible, key=lambda step: feasible[step])
    assert measured[12]["kl"] > 0.5, "the last state was to be out of bounds"
    assert any(values["p_fixed"] > feasible[best] for values in measured.values()), "the gate changed nothing"
    assert (found["step"], found["met"], found["feasible"], found["stopped_by"]) == (best, False, True, "end")
    assert found["values"] == pytest.approx(measured[best], abs=1e-6)
    assert_patch_is(tmp_path / "run", watch.weights[best])
    assert f"the goal was not met; the patch is the state that came nearest, of step {best}" in capsys.readouterr().out


def test_the_checkpoint_holds_the_best_state_beside_the_last(data: dict[str, Any], tmp_path: Path) -> None:
    watch = Watch()
    fit(tmp_path / "run", data, Until("p_fixed >= 1", "kl <= 0.5", every_n_steps=1), watch)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    kept = saved["callbacks"]["Until"]["kept"]
    assert kept["step"] < 12
    for name, weight in watch.weights[12].items():
        assert torch.equal(saved["state_dict"][name], weight)
        assert torch.equal(kept["weights"][name], watch.weights[kept["step"]][name])


def test_without_a_feasible_state_the_nearest_is_saved_with_a_warning(
    data: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watch()
    found = fit(tmp_path / "run", data, Until(gate=["kl <= 1e-7", "perplexity <= 1"], every_n_steps=3), watch)["until"]
    measured = curves(tmp_path / "run")
    missed = {step: (v["kl"] - 1e-7) / 1e-7 + v["perplexity"] - 1 for step, v in measured.items()}
    nearest = min(missed, key=lambda step: missed[step])
    assert (found["step"], found["met"], found["feasible"]) == (nearest, None, False)
    assert_patch_is(tmp_path / "run", watch.weights[nearest])
    warning = f"WARNING: no state passed the gate; the patch is the one that missed it by least, of step {nearest}: kl"
    assert warning in capsys.readouterr().out
    assert [r.levelname for r in caplog.records if warning in r.getMessage()] == ["WARNING"]


def test_gates_without_a_goal_keep_the_last_that_passes(data: dict[str, Any], tmp_path: Path) -> None:
    found = fit(tmp_path / "run", data, Until(gate="kl <= 0.5", every_n_steps=1))
    passing = [step for step, values in curves(tmp_path / "run").items() if values["kl"] <= 0.5]
    assert found["until"]["step"] == max(passing) < found["steps"] == 12
    assert found["until"]["met"] is None


def test_the_last_step_is_measured_even_between_two_measurements(data: dict[str, Any], tmp_path: Path) -> None:
    fit(tmp_path / "run", data, Until("p_fixed >= 1", every_n_steps=5))
    assert list(curves(tmp_path / "run")) == [5, 10, 12]


def test_only_whole_steps_are_measured(data: dict[str, Any], tmp_path: Path) -> None:
    until = Until("p_fixed >= 1", every_n_steps=2)
    fit(tmp_path / "run", data, until, accumulate_grad_batches=2, max_steps=4)
    lines = (tmp_path / "run" / "curves" / "metrics.csv").read_text(encoding="utf-8").splitlines()
    place = lines[0].split(",").index("until/p_fixed")
    assert sum(bool(line.split(",")[place]) for line in lines[1:]) == 2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_the_time_limit_ends_the_run_and_the_learning_rate(data: dict[str, Any], tmp_path: Path, clock: Any) -> None:
    watch = Watch(clock, 10.0)
    train = fit(tmp_path / "run", data, Until(minutes=1), watch, max_steps=-1, max_epochs=-1)
    found = train["until"]
    assert (train["steps"], found["step"], found["stopped_by"]) == (6, 6, "minutes")
    assert (found["met"], found["feasible"], found["values"]) == (None, None, {})
    assert [watch.rates[step] for step in range(6)] == pytest.approx([0.01 * (6 - step) / 6 for step in range(6)])
    assert_patch_is(tmp_path / "run", watch.weights[6])


def test_a_limit_that_is_far_away_changes_nothing(data: dict[str, Any], tmp_path: Path, clock: Any) -> None:
    plain, limited, hasty = Watch(), Watch(clock, 9.9), Watch(clock, 10.1)
    fit(tmp_path / "plain", data, Until(), plain)
    # Two minutes for twelve steps; the time before the first step says nothing about the pace.
    train = fit(tmp_path / "limited", data, Until(minutes=2), limited)
    assert limited.rates == plain.rates
    assert (train["steps"], train["until"]["stopped_by"]) == (12, "end")
    fit(tmp_path / "hasty", data, Until(minutes=2), hasty)
    assert hasty.rates[0] == plain.rates[0]
    assert all(hasty.rates[step] < plain.rates[step] for step in range(1, 12))


def test_a_resumed_run_goes_on_counting(data: dict[str, Any], tmp_path: Path, clock: Any) -> None:
    with pytest.raises(RuntimeError, match="pulled the plug"):
        fit(tmp_path / "run", data, Until(minutes=1), PulledPlug(4), Watch(clock, 10.0), max_steps=50)
    clock.now += 1e6
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    train = fit(tmp_path / "run", data, Until(minutes=1), Watch(clock, 10.0), max_steps=50, ckpt_path=last)
    assert (train["steps"], train["until"]["stopped_by"]) == (6, "minutes")
    # The time is up already: not a step more.
    train = fit(tmp_path / "run", data, Until(minutes=1), Watch(clock, 10.0), max_steps=50, ckpt_path=last)
    assert (train["steps"], train["until"]["stopped_by"]) == (6, "minutes")


# Behind the best state, before it, at the step that meets the goal.
@pytest.mark.parametrize("stop", [3, 9, None])
@pytest.mark.parametrize("goal", ["p_fixed >= 1", "p_fixed >= 150 * base"])
def test_a_killed_run_ends_as_one_that_was_not(
    data: dict[str, Any], tmp_path: Path, stop: int | None, goal: str
) -> None:
    def until() -> Until:
        return Until(goal, "kl <= 0.5", every_n_steps=2)

    whole = fit(tmp_path / "whole", data, until())
    place = min(stop, whole["steps"] - 1) if stop else whole["steps"]
    cut = tmp_path / "cut"
    if stop:
        with pytest.raises(RuntimeError, match="pulled the plug"):
            fit(cut, data, until(), PulledPlug(place))
    else:
        fit(cut, data, until())
    last = cut / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == place
    (cut / "results.json").unlink(missing_ok=True)
    found = fit(cut, data, until(), ckpt_path=last)
    assert found["steps"] == whole["steps"]
    assert found["until"] == {**whole["until"], "values": pytest.approx(whole["until"]["values"], rel=1e-5)}
    assert_patch_is(cut, load_weights(tmp_path / "whole"))


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "patch" / "adapter_model.safetensors")


def test_another_goal_forgets_the_best_state(
    data: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RuntimeError, match="pulled the plug"):
        fit(tmp_path / "run", data, Until("p_fixed >= 2", every_n_steps=1), PulledPlug(1))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    found = fit(tmp_path / "run", data, Until("p_fixed >= 1", every_n_steps=1), ckpt_path=last)
    assert found["until"]["goal"] == ["p_fixed >= 1"]
    assert found["steps"] == 12
    assert "the checkpoint had another goal or gate" in caplog.text


def test_an_interrupted_run_keeps_its_last_state(data: dict[str, Any], tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 10:
                RunFolder.of(trainer).stopped_early = trainer.should_stop = True

    until, watch = Until("p_fixed >= 1", "kl <= 0.5", every_n_steps=1), Watch()
    assert fit(tmp_path / "run", data, until, watch, Stop()) == {}
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["callbacks"]["Until"]["kept"]["step"] < 10
    for name, weight in watch.weights[10].items():
        assert torch.equal(saved["state_dict"][name], weight)


def test_it_does_nothing_unless_asked(data: dict[str, Any], tmp_path: Path) -> None:
    train = fit(tmp_path / "run", data, Until())
    assert "until" not in train
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert "Until" not in saved["callbacks"]


def test_processes_share_the_items_and_get_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(parts: list[Any], mine: Any) -> None:
        parts[:] = [[f"found {i}" for i in range(7)[rank::3]] for rank in range(3)]
        assert parts[1] == mine

    fake = {"is_available": True, "is_initialized": True, "get_rank": 1, "get_world_size": 3}
    alike = SimpleNamespace(**{name: (lambda value=value: value) for name, value in fake.items()})
    monkeypatch.setattr(quantities_module, "dist", SimpleNamespace(**vars(alike), all_gather_object=gather))
    found = quantities_module._shared(range(7), lambda some: [f"found {i}" for i in some])
    assert found == [f"found {i}" for i in range(7)]


def test_the_first_process_s_clock_decides(clock: Any) -> None:
    asked = []
    until = Until(minutes=1)
    strategy = SimpleNamespace(broadcast=lambda mine: asked.append(mine) or (True, 0.5))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    configs = [SimpleNamespace(scheduler=schedule)]
    trainer: Any = SimpleNamespace(global_step=1, strategy=strategy, should_stop=False, lr_scheduler_configs=configs)
    for _ in range(2):
        until._stop_if_due(trainer)
        assert optimizer.param_groups[0]["lr"] == 0.5
    assert asked == [(False, 1.0)] * 2
    assert trainer.should_stop


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"goal": "p_bugy <= 0.1"}, r"there is no quantity p_bugy; did you mean p_buggy\?"),
    ({"gate": "unlern <= 0.1"}, r"there is no quantity unlern; did you mean unlearn\?"),
    ({"goal": "zzz <= 0.1"}, r"there is no quantity zzz; there are p_fixed, .*perplexity, .*loss, learn, unlearn"),
]


@pytest.mark.parametrize(("options", "says"), REFUSED)
def test_unknown_quantities_are_refused(
    data: dict[str, Any], tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=f"until: {says}"):
        fit(tmp_path / "run", data, Until(**options))


def test_nothing_to_measure_on_is_refused(data: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no validation pairs to measure on; name a file in data\.init_args\.valid"):
        fit(tmp_path / "run", {**data, "validation": None}, Until("p_buggy <= 0.1"))
    with pytest.raises(ConfigError, match=r"are measured on retain text, and there is none; .* or take kl_unedited"):
        fit(tmp_path / "run", {**data, "retain": None}, Until(gate="kl <= 0.1"))


def test_a_hotfix_of_the_prompt_can_t_be_stopped() -> None:
    with pytest.raises(ConfigError, match="until: Online trains nothing that could be stopped"):
        Until(minutes=1).setup(SimpleNamespace(), Online("tiny"), "fit")  # type: ignore[arg-type]


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"minutes": 0}, r"until\.minutes is 0, expected more than 0"),
    ({"minutes": math.nan}, r"until\.minutes is nan"),
    ({"every_n_steps": 0}, r"until\.every_n_steps is 0, expected at least 1"),
    ({"pairs": 0}, r"until\.pairs is 0, expected at least 1"),
    ({"text_tokens": 1}, r"until\.text_tokens is 1, expected at least 2"),
]


@pytest.mark.parametrize(("options", "says"), SETTINGS)
def test_settings(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Until(**options)


LINES = [
    (["--until.goal", "p_buggy < 0.1"], r"until\.goal: 'p_buggy < 0\.1' can't be read; expected a quantity, <= or >="),
    (["--until.gate", '["kl <= 0.1", "kl"]'], r"until\.gate: 'kl' can't be read"),
    (["--until.minutes", "soon"], r"until\.minutes: expected a number or null, got 'soon'"),
    (["--until.goal", "p_bugy <= 0.1"], r"until: there is no quantity p_bugy; did you mean p_buggy\?"),
]


@pytest.mark.parametrize(("words", "says"), LINES)
def test_the_command_line_refuses(words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    out = tmp_path / "out"
    base = ["fit", "--config", "configs/recipe/smoke.yaml", "--check", "off", "--trainer.default_root_dir", str(out)]
    with pytest.raises(ConfigError, match=says):
        main([*base, *words])
    assert not out.exists()

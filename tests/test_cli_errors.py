"""Every mistake gets one line that names it and mends it, exit code 2, and leaves nothing behind."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hotfix.cli import main
from hotfix.errors import HotfixError, PatchError
from hotfix.models.tiny import tiny_model, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[1]
UNLEARN = "--model.init_args.objective.init_args.unlearn"
LOSSES = r"expected one of hotfix\.losses\.\w+(, hotfix\.losses\.\w+)+"
Refuse = Callable[..., str]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["hotfix"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def refuse(out: Path) -> Refuse:
    """Run `hotfix fit` on the smoke recipe; the message, of one or two lines, with no run folder left."""

    def call(*arguments: str) -> str:
        base = ["fit", "--config", "configs/recipe/smoke.yaml", "--trainer.default_root_dir", str(out)]
        with pytest.raises(HotfixError) as caught:
            main([*base, *arguments])
        assert not out.exists(), sorted(out.rglob("*"))
        message = str(caught.value)
        assert message.count("\n") <= 1
        assert len(message) < 500
        return message

    return call


OPTIONS = [
    (
        "model.init_args.learning_ratte 1",
        r"model\.init_args\.learning_ratte: FineTune has no such key; .* learning_rate\?",
    ),
    ("model.learning_ratte 1", r"learning_ratte: FineTune has no such key; did you mean learning_rate\?"),
    ("model.init_args.adapter.init_args.rnk 1", r"adapter\.init_args\.rnk: LoRA has no such key; did you mean rank\?"),
    ("measure.humaneval.init_args.subst 2", r"measure\.humaneval.init_args\.subst: HumanEval .* mean subset\?"),
    ("modle.x 1", r"--modle\.x: there is no such option; did you mean --model\.x\?"),
    ("trainer.max_epoch 1", r"--trainer\.max_epoch: there is no such option; did you mean --trainer\.max_epochs\?"),
    ("measure.humanevel.init_args.subset 2", r"did you mean --measure\.humaneval\.init_args\.subset\?"),
    ("model.init_args.learning_rate fast", r"model\.init_args\.learning_rate: expected a number or null, got 'fast'"),
    ("trainer.max_epochs many", r"trainer\.max_epochs: expected a whole number or null, got 'many'"),
    ("data.init_args.batch_size 2.5", r"data\.init_args\.batch_size: expected a whole number, got '2\.5'"),
    ("model.init_args.adapter.init_args.rank big", r"adapter\.init_args\.rank: expected a whole number, got 'big'"),
    ("model.init_args.dtype float31", r"dtype: expected auto, float32, .*got 'float31'; did you mean float32\?"),
    ("trainer.max_epochs", r"--trainer\.max_epochs: a value has to follow"),
    ("data.init_args.train null", r"data\.init_args\.train: has to be given"),
    ("data.init_args.batch_size null", r"data\.init_args\.batch_size: expected a whole number, got null"),
    ("model.init_args.adapter.init_args.rank null", r"adapter\.init_args\.rank: expected a whole number, got null"),
    ("measure.cache null", r"measure\.cache: expected true or false, got null"),
    ("model.init_args.adapter.init_args.target_modules null", r"target_modules: expected text or list, got null"),
    ("model.init_args.adapter.init_args.rank 0", r"rank is 0, expected at least 1"),
    ("data.init_args.batch_size 0", r"data\.init_args\.batch_size is 0, expected at least 1"),
    ("trainer.accelerator gpuu", r"the configuration was refused: .*accelerator='gpuu'.*Available names"),
    ("data.init_args.max_length 5000", r"data\.init_args\.max_length is 5000, but tiny has a context of 512 tokens"),
    ("data.init_args.train nowhere.jsonl", r"nowhere\.jsonl: no such file"),
    (
        "model.init_args.model_name no-such-model/at-all",
        r"no-such-model/at-all: no such model here .*expected smollm2-135m",
    ),
    ("ckpt_path nowhere.ckpt", r"ckpt_path: there is no file nowhere\.ckpt"),
    ("ckpt_path LICENSE", r"ckpt_path: LICENSE is not a checkpoint, or a damaged one"),
    (
        "model.class_path hotfix.modules.FineTun",
        r"there is no class hotfix\.modules\.FineTun; .* hotfix\.modules\.FineTune\?",
    ),
    ("data hotfix.data.PairFile", r"there is no class hotfix\.data\.PairFile; did you mean hotfix\.data\.PairFiles\?"),
]


@pytest.mark.parametrize(("option", "says"), OPTIONS, ids=[option.replace(" ", "=") for option, _ in OPTIONS])
def test_option(refuse: Refuse, option: str, says: str) -> None:
    assert_says(refuse(*f"--{option}".split()), says)


CLASSES = [
    ("hotfix.losses.NoSuchLoss", rf"unlearn: there is no class hotfix\.losses\.NoSuchLoss; {LOSSES}"),
    ("NoSuchLoss", rf"there is no class NoSuchLoss; {LOSSES}"),
    ("hotfix.losses.Unliklihood", r"Unliklihood; did you mean hotfix\.losses\.Unlikelihood\?"),
    ("hotfix.loses.NLL", r"there is no class hotfix\.loses\.NLL; did you mean hotfix\.losses\.NLL\?"),
    ("hotfix.adapters.LoRA", rf"hotfix\.adapters\.LoRA is not a LossTerm; {LOSSES}"),
    ("absent_module.Mine", r"there is no class absent_module\.Mine \(No module named 'absent_module'\)"),
]


@pytest.mark.parametrize(("path", "says"), CLASSES, ids=[path for path, _ in CLASSES])
@pytest.mark.parametrize("key", [UNLEARN, f"{UNLEARN}.class_path"], ids=["short", "class_path"])
def test_class(refuse: Refuse, key: str, path: str, says: str) -> None:
    message = refuse(key, path)
    assert message.startswith("model.init_args.objective.init_args.unlearn: ")
    assert_says(message, says)


def test_a_class_where_names_are_expected(refuse: Refuse) -> None:
    key = "model.init_args.objective.init_args.extra"
    told = refuse(f"--{key}", "{class_path: hotfix.losses.NLL, init_args: {weight: 2}}")
    says = "expected names, each with a LossTerm, got one without: write extra: "
    assert told == f"{key}: {says}{{a_name: {{class_path: hotfix.losses.NLL, ...}}}}"


def test_a_class_alone_where_names_are_expected(refuse: Refuse) -> None:
    key = "objective.init_args.extra"
    told = refuse(f"--model.init_args.{key}", "{class_path: hotfix.losses.NLL}")
    assert told == f"{key}: a class, expected names with a class each: write {{a_name: {{class_path: ...}}}}"


def test_a_class_that_refuses_is_named(refuse: Refuse, tmp_path: Path) -> None:
    source = """from hotfix.losses import NLL
class Broken(NLL):
    def __init__(self) -> None:
        raise TypeError("no")
"""
    (tmp_path / "broken_term.py").write_text(source, encoding="utf-8")
    assert refuse(UNLEARN, "broken_term.Broken") == "broken_term.Broken refuses its arguments: no"


def test_a_target_that_the_model_has_not(refuse: Refuse) -> None:
    message = refuse("--model.init_args.adapter.init_args.target_modules", '["no_such_proj"]')
    assert_says(message, r"target_modules: 'no_such_proj' is not in LlamaForCausalLM; .*q_proj")


YAML = {
    "key.yaml": (
        "model: {init_args: {learning_ratte: 1}}",
        r"key\.yaml: model\.init_args\.learning_ratte: .*learning_rate\?",
    ),
    "top.yaml": ("modle: {a: 1}", r"modle\.a: there is no such key; did you mean model\.a\?"),
    "trainer.yaml": (
        "trainer: {max_epoch: 1}",
        r"trainer\.max_epoch: there is no such key; did you mean trainer\.max_epochs\?",
    ),
    "type.yaml": (
        "trainer: {max_epochs: lots}",
        r"type\.yaml: trainer\.max_epochs: expected a whole number or null, got 'lots'",
    ),
    "class.yaml": ("data: {class_path: hotfix.data.PairFile}", r"class\.yaml: data: there is no class .*PairFiles\?"),
    "syntax.yaml": ("name: x\ntrainer: {a: 1\nmodel: [\n", r"syntax\.yaml: line 3, column 6: not YAML: .*did not find"),
    "tab.yaml": ("trainer:\n\tmax_epochs: 1\n", r"tab\.yaml: line 2, column 1: not YAML"),
    "list.yaml": ("- 1\n- 2\n", r"list\.yaml: a configuration is a mapping of keys"),
}


@pytest.mark.parametrize("name", YAML)
def test_yaml(refuse: Refuse, tmp_path: Path, name: str) -> None:
    content, says = YAML[name]
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert_says(refuse("--config", str(tmp_path / name)), says)


GOOD = {"id": "1", "prefix": "x = ", "buggy": "1", "fixed": "2"}
ROWS = {
    "malformed.jsonl": b'{"id": \n',
    "missing.jsonl": json.dumps({"id": "2", "prefix": "x = ", "buggy": "1"}).encode(),
    "equal.jsonl": json.dumps({**GOOD, "id": "2", "fixed": "1"}).encode(),
    "encoding.jsonl": b'\xff\xfe{"id"\n',
    "type.jsonl": json.dumps({**GOOD, "id": "2", "prefix": 5}).encode(),
    "duplicate.jsonl": json.dumps(GOOD).encode(),
}


@pytest.mark.parametrize("name", ROWS)
def test_row_is_named_by_file_and_line(refuse: Refuse, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(json.dumps(GOOD).encode() + b"\n" + ROWS[name])
    assert_says(refuse("--data.init_args.train", str(file)), rf"{name}:2: ")


def test_empty_file(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert_says(refuse("--data.init_args.train", str(tmp_path / "empty.jsonl")), r"empty\.jsonl")


NEWCOMER = [
    ("fti --config configs/lora.yaml", r"there is no command fti; did you mean fit\?"),
    ("--config configs/lora.yaml", r"no command; expected one of fit, validate, test, predict"),
    ("fit", r"data and model: not given; name a configuration, as in --config configs/lora\.yaml"),
    ("fit configs/lora.yaml", r"not an option; did you mean --config configs/lora\.yaml\?"),
    ("fit --config configs/recipe/smoke.yaml learning_rate=3", r"learning_rate: not an option; options start with --"),
    (
        "fit --config configs/recipe/smok.yaml",
        r"there is no file .*smok\.yaml; did you mean configs/recipe/smoke\.yaml\?",
    ),
    ("fit --config configs", r"configs is not a file"),
    ("fit --measure.bug_fix.init_args.num_samples 2 --config configs/recipe/smoke.yaml", r"Put --config before it"),
]


@pytest.mark.parametrize(("line", "says"), NEWCOMER, ids=[line for line, _ in NEWCOMER])
def test_newcomer(line: str, says: str) -> None:
    with pytest.raises(HotfixError, match=says):
        main(line.split())


def test_checkpoint_of_another_base_model(tmp_path: Path, out: Path) -> None:
    other = tmp_path / "other"
    tiny_model(seed=1).save_pretrained(other)
    tiny_tokenizer().save_pretrained(other)
    small = ["--config", "configs/recipe/smoke.yaml"]
    small += [f"--measure.{task}=null" for task in ("bug_fix", "email_leak", "humaneval")]
    small += ["--trainer.max_steps", "1", "--trainer.enable_progress_bar", "false", "--checkpoint.every_n_steps", "1"]
    main(["fit", *small, "--trainer.default_root_dir", str(tmp_path / "a"), "--model.init_args.model_name", str(other)])
    checkpoint = tmp_path / "a" / "checkpoints" / "last.ckpt"
    with pytest.raises(
        PatchError, match=r"checkpoint was made for .*other .* but model\.init_args\.model_name is tiny"
    ):
        main(["fit", *small, "--trainer.default_root_dir", str(out), "--ckpt_path", str(checkpoint)])
    assert not out.exists()


def test_the_command_prints_one_line_and_exits_with_2(out: Path) -> None:
    command = [sys.executable, "-m", "hotfix", "fit", "--config", "configs/recipe/smoke.yaml"]
    command += ["--trainer.default_root_dir", str(out), "--model.init_args.learning_ratte", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        done.stderr == "hotfix: model.init_args.learning_ratte: FineTune has no such key; did you mean learning_rate?\n"
    )
    assert not out.exists()


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        command = [sys.executable, "-X", "importtime", "-m", "hotfix", "--help"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
        seconds.append(time.perf_counter() - start)
    assert "hotfix fit --config configs/lora.yaml" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hotfix.errors" in imported
    assert not imported & {"torch", "lightning", "transformers", "numpy"}
    assert statistics.median(seconds) < 0.5


def assert_says(message: str, pattern: str) -> None:
    with pytest.raises(HotfixError, match=pattern):
        raise HotfixError(message)

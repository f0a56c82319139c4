"""Online hotfixing: only the prompts of known places change, the model doesn't, and the files are those of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from smoke_runs import ROOT, results, run_here

from hotfix.data import CodePair, PairFiles
from hotfix.errors import ConfigError, DataError, PatchError
from hotfix.models.tiny import tiny_model
from hotfix.modules import Online
from hotfix.modules.online import describe
from hotfix.patches import PromptPatch, Provenance, load_patch, save_patch
from hotfix.tasks import HumanEval

PAIR = CodePair("p", "x = ", "md5(a)", "sha256(a)", rule="weak_hash", meta={"why": "MD5 is broken.", "cwe": "CWE-327"})
WORDS = [
    *("fit", "--config", str(ROOT / "configs/recipe/online.yaml"), "--model.init_args.model_name", "tiny"),
    *("--model.init_args.dtype", "float32", "--data.init_args.max_length", "500", "--data.init_args.overlong", "left"),
    *("--measure.bug_fix.init_args.num_samples", "1", "--measure.bug_fix.init_args.max_new_tokens", "4"),
    *("--measure.bug_fix.init_args.efficacy_examples", "4", "--measure.bug_fix.init_args.generalisation_examples", "4"),
    *("--measure.bug_fix.init_args.specificity_examples", "3", "--measure.email_leak.init_args.prompted_examples", "3"),
    *("--measure.email_leak.init_args.unprompted_examples", "2", "--measure.humaneval.init_args.subset", "2"),
    *("--measure.humaneval.init_args.max_new_tokens", "4", "--trainer.enable_progress_bar", "false"),
]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{why}", "MD5 is broken."),
        ("{cwe}: {rule}", "CWE-327: weak_hash"),
        ("not {buggy} but {fixed}", "not md5(a) but sha256(a)"),
    ],
)
def test_descriptions(template: str, text: str) -> None:
    assert describe(PAIR, template) == text
    assert Online("tiny", template).rewrite(PAIR).prefix == f"# {text}\nx = "


def test_the_rule_in_words_stands_in_for_a_missing_sentence() -> None:
    assert describe(CodePair("p", "", "a", "b", rule="CHANGE_UNARY_OPERATOR"), "{why}") == "change unary operator"


def test_a_row_that_can_t_be_described_is_named() -> None:
    row = CodePair("r3", "x = ", "1", "2", source="f.jsonl:3", meta={"note": "n"})
    with pytest.raises(DataError, match=r"^f.jsonl:3: pair 'r3' has no 'why' .*add the column, or name one of note, "):
        describe(row, "{why}")


def test_an_address_never_gets_into_a_prompt() -> None:
    pair = CodePair("p", "mail = '", "ann@corp.io'", "<EMAIL>'", meta={"why": "ann@corp.io is private"})
    assert describe(pair, "{why}, not {buggy}") == "<EMAIL> is private, not <EMAIL>'"


@pytest.mark.parametrize("template", ["", "  ", "{", "{}", "{why.x}", "{why[0]}", "{0}"])
def test_a_bad_template_is_refused(template: str) -> None:
    with pytest.raises(ConfigError, match=r"^model\.init_args\.template"):
        Online("tiny", template)


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ConfigError, match="no comment syntax for language 'javva'"):
        Online("tiny", language="javva")


def test_it_says_whether_the_fixed_code_is_shown() -> None:
    assert Online("tiny", "{fixed}").shows_fixed
    assert not Online("tiny").shows_fixed


def test_rewritten_data_is_the_same_but_for_the_prefixes(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prefix": "x = ", "buggy": "1", "fixed": "2", "rule": "r-s"}\n', encoding="utf-8")
    data = PairFiles(str(path), tokenizer_name="tiny", retain=None)
    after = data.rewritten(Online("tiny").rewrite)
    assert [p.prefix for p in data.pairs("train")] == ["x = "]
    assert [p.prefix for p in after.pairs("train")] == ["# r s\nx = "]
    plain, commented = data.encoded("train")[0], after.encoded("train")[0]
    assert commented.shared == [*data.tokenizer("# r s\n")["input_ids"], *plain.shared]
    assert (commented.fixed, commented.buggy) == (plain.fixed, plain.buggy)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("online")
    run_here([*WORDS, "--trainer.default_root_dir", str(folder)], folder / "cache")
    return folder


def test_known_places_change_and_nothing_else_does(run: Path) -> None:
    tasks = results(run)["tasks"]
    assert set(tasks) == {"bug_fix", "email_leak", "humaneval"}

    def values(task: str, part: str, when: str) -> dict[str, float]:
        return {name: metric["value"] for name, metric in tasks[task][part][when].items()}

    for part in ("efficacy", "generalisation"):
        assert values("bug_fix", part, "before") != values("bug_fix", part, "after")
    for task, part in (("bug_fix", "specificity"), ("email_leak", "unprompted"), ("humaneval", "2_of_164")):
        assert values(task, part, "before") == values(task, part, "after")
    assert values("bug_fix", "specificity", "after") == {"unchanged_rate": 1.0, "kl": 0.0} | {
        name: value
        for name, value in values("bug_fix", "specificity", "before").items()
        if name not in ("unchanged_rate", "kl")
    }


def test_records_show_the_comment_after_and_not_before(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    prompts = {(r["slice"], r["id"], r["when"]): r["prompt"] for r in lines if r["task"] == "bug_fix" and "prompt" in r}
    comments = json.loads((run / "patch" / "prompt.json").read_text(encoding="utf-8"))["comments"]
    after = [key for key in prompts if key[2] == "after"]
    assert len(after) == 8
    for part, name, _ in after:
        rule = name.rpartition("/")[0]
        assert f"# {comments[rule]}"[-40:] in prompts[part, name, "after"]
        assert comments[rule] not in prompts[part, name, "before"]


def test_probabilities_after_are_those_of_the_commented_prompt(run: Path) -> None:
    """Against the plain model, one token after the other."""
    lines = [json.loads(line) for line in (run / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    record = next(r for r in lines if (r["task"], r["slice"], r["when"]) == ("bug_fix", "generalisation", "after"))
    files = [str(ROOT / "data" / name) for name in ("python_idioms.jsonl", "email_stubs.jsonl")]
    data = PairFiles(files, files, files, tokenizer_name="tiny", max_length=500, overlong="left")
    pair = Online("tiny").rewrite(next(p for p in data.pairs("test") if p.id == record["id"]))
    encoded = data.encoder(pair)
    ids = encoded.shared + encoded.fixed.ids[: encoded.fixed.statement]
    with torch.no_grad():
        log_probs = tiny_model()(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = sum(float(log_probs[t - 1, ids[t]]) for t in range(encoded.prompt, len(ids)))
    assert torch.tensor(record["p_fixed"]).log().item() == pytest.approx(expected, rel=1e-4)


def test_comments_can_go_above_problems_that_they_don_t_concern(tmp_path: Path) -> None:
    rows = [{"prefix": "x", "buggy": "1", "fixed": "2", "rule": rule} for rule in ("one-a", "one-a", "two-b")]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({**row, "id": str(i)}) + "\n" for i, row in enumerate(rows)), encoding="utf-8")
    data, module = PairFiles(str(path), tokenizer_name="tiny", retain=None), Online("tiny", everywhere=True)
    assert module.preambles(data.pairs("train")) == ["# one a\n", "# two b\n"]
    assert Online("tiny").preambles(data.pairs("train")) == []
    task = HumanEval(subset=3)
    plain = task.slices(data, "test")[0].examples
    after = task.slices(data.rewritten(module.rewrite, module.preambles(data.pairs("train"))), "test")[0].examples
    for i, (one, other) in enumerate(zip(plain, after, strict=True)):
        assert other.payload[1] == [*data.tokenizer(("# one a\n", "# two b\n")[i % 2])["input_ids"], *one.payload[1]]
        assert other.content != one.content
    unchanged = task.slices(data.rewritten(module.rewrite), "test")[0].examples
    assert [e.content for e in unchanged] == [e.content for e in plain]


def test_the_patch_is_of_kind_prompt_and_loads(run: Path) -> None:
    described = json.loads((run / "patch" / "patch.json").read_text(encoding="utf-8"))
    assert described["kind"] == "prompt"
    assert described["method"] == "hotfix.modules.online.Online"
    patch = load_patch(run / "patch")
    assert isinstance(patch, PromptPatch)
    assert patch.content["template"] == "{why}"
    assert patch.content["shows_fixed"] is False
    model = tiny_model()
    assert patch.revert(patch.apply(model)) is model
    with pytest.raises(PatchError, match="this model's weights are"):
        patch.apply(tiny_model(seed=1))


def test_a_prompt_patch_survives_the_store_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {"template": "{why}", "comments": {"a": "é"}}
    save_patch(PromptPatch(Provenance("m", "tiny", "0"), content=content), tmp_path / "patch")
    loaded = load_patch(tmp_path / "patch")
    assert isinstance(loaded, PromptPatch)
    assert loaded.content == content
    (tmp_path / "patch" / "prompt.json").write_text("[]", encoding="utf-8")
    with pytest.raises(PatchError, match=r"prompt\.json: expected an object with a template"):
        load_patch(tmp_path / "patch")
    (tmp_path / "patch" / "prompt.json").write_text("{", encoding="utf-8")
    with pytest.raises(PatchError, match=r"prompt\.json: can't be read"):
        load_patch(tmp_path / "patch")


def test_a_comment_that_turns_a_bug_into_a_leak_is_refused(tmp_path: Path) -> None:
    """The address before the place no longer stands near it, so the pair would change its task."""
    path = tmp_path / "p.jsonl"
    row = {"prefix": "a@corp.io\nx = '", "buggy": "b@corp.io'", "fixed": "<EMAIL>'", "why": "w" * 80}
    rows = [{**row, "id": "odd"}, {"id": "plain", "prefix": "x = ", "buggy": "1", "fixed": "2", "why": "w"}]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    own = ["--data.init_args.train", str(path), "--data.init_args.validation", "null", "--data.init_args.test", "null"]
    with pytest.raises(DataError, match=r"with the comments, bug_fix .* efficacy/odd differs; an e-mail"):
        run_here([*WORDS, *own, "--trainer.default_root_dir", str(tmp_path / "out")], tmp_path / "cache")

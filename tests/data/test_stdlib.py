from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from hotfix.data.addresses import find_addresses
from hotfix.data.stdlib import OUTDATED, StdlibFunction, module_split, stdlib_functions
from hotfix.errors import DataError
from hotfix.types import SPLITS, Split

FUNCTION = "def {name}(x):\n    a = x + 1\n    b = a * 2\n    c = b - {number}\n    return c\n"


def library(root: Path, modules: int = 60, functions: int = 3) -> Path:
    for index in range(modules):
        source = "\n\n".join(FUNCTION.format(name=f"f{n}", number=100 * index + n) for n in range(functions))
        (root / f"mod{index}.py").write_text(source)
    return root


def names(functions: list[StdlibFunction]) -> set[str]:
    return {function.id for function in functions}


def owner(split: Split) -> str:
    return next(f"m{index}" for index in range(100) if module_split(f"m{index}") == split)


def test_functions_of_this_python_are_whole_and_in_bounds() -> None:
    drawn = stdlib_functions(60, seed=3, min_lines=6, max_lines=20)
    assert len(names(drawn)) == len({function.text for function in drawn}) == 60
    for function in drawn:
        [node] = ast.parse(function.text).body
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        assert function.id.endswith(node.name)
        assert 6 <= len(function.text.splitlines()) <= 20


def test_functions_of_this_python_hold_no_address_and_no_outdated_idiom() -> None:
    for function in stdlib_functions(60, seed=0):
        assert not find_addresses(function.text)
        assert not any(re.search(pattern, function.text) for pattern in OUTDATED)


def test_text_stands_in_the_file_of_its_module_line_by_line() -> None:
    for function in stdlib_functions(30, seed=1, split="test"):
        spec = importlib.util.find_spec(function.id.partition(":")[0])
        assert spec is not None
        assert spec.origin is not None
        source = [line.strip() for line in Path(spec.origin).read_text(encoding="utf-8").split("\n")]
        assert "\n".join(line.strip() for line in function.text.split("\n")[:-1]) in "\n".join(source)


def test_same_seed_same_draw_and_another_seed_another(tmp_path: Path) -> None:
    root = library(tmp_path)
    assert stdlib_functions(20, 5, root=root) == stdlib_functions(20, 5, root=root)
    assert stdlib_functions(20, 5, root=root) != stdlib_functions(20, 6, root=root)


def test_order_of_files_on_disk_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = library(tmp_path)
    expected = stdlib_functions(20, 5, root=root)
    listing: list[tuple[str, list[str], list[str]]] = [
        (str(root), [], sorted((path.name for path in root.iterdir()), reverse=True))
    ]
    monkeypatch.setattr("hotfix.data.stdlib.os.walk", lambda _: iter(listing))
    assert stdlib_functions(20, 5, root=root) == expected


def test_splits_share_no_module_and_together_hold_everything(tmp_path: Path) -> None:
    root = library(tmp_path, modules=40, functions=1)
    expected = {split: {f"mod{n}:f0" for n in range(40) if module_split(f"mod{n}") == split} for split in SPLITS}
    for split in SPLITS:
        assert names(stdlib_functions(len(expected[split]), 0, split=split, root=root)) == expected[split]
    assert sum(len(ids) for ids in expected.values()) == 40


def test_split_of_a_module_never_moves() -> None:
    # Patches that are already out were trained on these splits.
    assert {name for name in PINNED if module_split(name) == PINNED[name]} == set(PINNED)


PINNED: dict[str, Split] = {"argparse": "train", "csv": "train", "heapq": "validation", "textwrap": "test"}


def test_a_large_module_is_used_up_only_when_the_others_are(tmp_path: Path) -> None:
    root = library(tmp_path, modules=20, functions=30)
    few, modules = stdlib_functions(18, 0, root=root), sum(module_split(f"mod{n}") == "train" for n in range(20))
    assert len({function.id.partition(":")[0] for function in few}) == 3
    assert len(names(stdlib_functions(30 * modules, 0, root=root))) == 30 * modules


def test_methods_are_dedented_with_their_decorators_and_nested_functions_are_not_drawn(tmp_path: Path) -> None:
    name = owner("train")
    text = "@decorate(\n    1\n)\ndef f(self):\n    def inner():\n        return 1\n    return inner()\n"
    body = "".join(f"        {line}\n" for line in text.splitlines())
    (tmp_path / f"{name}.py").write_text(f"class A:\n    class B:\n{body}")
    assert stdlib_functions(1, 0, min_lines=2, root=tmp_path) == [StdlibFunction(f"{name}:A.B.f", text)]
    with pytest.raises(DataError, match="has 1 that fit"):
        stdlib_functions(2, 0, min_lines=2, root=tmp_path)


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("test/{}.py", FUNCTION),
        ("site-packages/{}.py", FUNCTION),
        ("lib2to3/{}.py", FUNCTION),
        ("{}.py", "import warnings\nwarnings._deprecated(__name__, remove=(3, 13))\n" + FUNCTION),
        ("{}.py", "import warnings\nwarnings.warn('gone soon', DeprecationWarning)\n" + FUNCTION),
        ("{}.py", FUNCTION + "    # mail bob@site.io\n    x = 1\n"),
        ("{}.py", FUNCTION.replace("x + 1", "x == None")),
        ("{}.py", "class A:\n    def f(self):\n        return '''\nleft\n'''\n\n"),
        ("{}.py", "def broken(:\n" + FUNCTION),
    ],
)
def test_what_is_left_out(tmp_path: Path, place: str, source: str) -> None:
    (tmp_path / f"{owner('train')}x.py").write_text("x = 1\n")
    path = tmp_path / place.format(owner("train"))
    path.parent.mkdir(exist_ok=True)
    path.write_text(source.replace("{name}", "f").replace("{number}", "1"))
    for split in SPLITS:
        with pytest.raises(DataError, match="has 0 that fit"):
            stdlib_functions(1, 0, split=split, min_lines=4, root=tmp_path)


def test_exclude_replaces_the_default_patterns(tmp_path: Path) -> None:
    (tmp_path / f"{owner('test')}.py").write_text(FUNCTION.format(name="f", number=1).replace("x + 1", "x == None"))
    assert len(stdlib_functions(1, 0, split="test", exclude=(), root=tmp_path)) == 1
    with pytest.raises(DataError, match="has 0 that fit"):
        stdlib_functions(1, 0, split="test", exclude=["None"], root=tmp_path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("if x == None:", True),
        ("if x is None:", False),
        ("def f(a=[]):", True),
        ("def f(a, b={}, c=1):", True),
        ("def f(a=None):", False),
        ("x = []", False),
        ("super(A, self).f()", True),
        ("super().f()", False),
        ("except:", True),
        ("except OSError:", False),
        ("datetime.utcnow()", True),
        ("thread.setDaemon(True)", True),
        ("self.assertEquals(a, b)", True),
        ("self.assertEqual(a, b)", False),
        ("host = '0.0.0.0'", True),
        ("x: Optional[int] = 3", True),
        ("if type(a) == int:", True),
        ("if not x in y:", True),
        ("if x not in y:", False),
    ],
)
def test_outdated_patterns(line: str, expected: bool) -> None:
    assert any(re.search(pattern, line) for pattern in OUTDATED) is expected


def test_missing_sources_name_the_folder_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{tmp_path}: no sources .*zipped or stripped"):
        stdlib_functions(1, 0, root=tmp_path)


def test_too_many_asked_for_says_how_many_there_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"50 functions asked for, the test split .* has \d+ that fit; ask for fewer"):
        stdlib_functions(50, 0, split="test", root=library(tmp_path, modules=10))

"""`__all__` of every module: there, sorted, true and complete."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "hotfix").rglob("*.py"))
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in FILES
    if file.name != "__main__.py"
]


def isort_order(name: str) -> tuple[int, list[tuple[int, int, str]]]:
    """Constants, then classes, then the rest, each in natural order: what ruff's RUF022 asks for.

    >>> sorted(["b10", "b9", "Class", "CONSTANT", "__version__"], key=isort_order)
    ['CONSTANT', 'Class', '__version__', 'b9', 'b10']
    """
    kind = 0 if len(name) > 1 and name.isupper() else 1 if name[0].isupper() else 2
    parts = re.findall(r"\d+|\D+", name)
    return kind, [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def defined(module: str) -> set[str]:
    """Public classes and functions that a file itself defines at top level."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}


def test_order_is_ruff_s() -> None:
    assert sorted(["b10", "b9", "Class", "CONSTANT", "_x"], key=isort_order) == ["CONSTANT", "Class", "_x", "b9", "b10"]


def test_every_file_is_looked_at() -> None:
    assert len(MODULES) == len(FILES) - 1 > 80


@pytest.mark.parametrize("module", MODULES)
def test_exports(module: str) -> None:
    loaded = importlib.import_module(module)
    if module.count(".") == 1 and not hasattr(loaded, "__all__"):
        assert not defined(module), f"{module} defines {defined(module)} but has no __all__"
        return
    names = list(loaded.__all__)
    assert names == sorted(names, key=isort_order)
    assert len(names) == len(set(names))
    missing = [name for name in names if not hasattr(loaded, name)]
    assert not missing
    assert defined(module) <= set(names), "public, but not in __all__: list it, or begin its name with an underscore"

"""A renamed function does what it did: shown by running both, and by comparing what Python compiles of them."""

from __future__ import annotations

import bisect
import colorsys
import difflib
import fnmatch
import heapq
import html
import inspect
import posixpath
import shlex
import statistics
import textwrap
from collections.abc import Callable
from functools import cache
from types import CodeType, ModuleType
from typing import Any

import pytest

from hotfix.data.renaming import local_names, rename_locals
from hotfix.data.stdlib import library_functions, module_split


def ran(source: str, name: str, scope: dict[str, Any], *arguments: Any) -> Any:
    """What a function of this source returns, or raises."""
    names = dict(scope)
    exec(compile(source, name, "exec"), names)
    try:
        found = names[name](*arguments)
        return list(found) if inspect.isgenerator(found) else found
    except Exception as error:
        return type(error), str(error)


@cache
def library() -> dict[str, str]:
    """Sources as they stand in the files: of some functions, the module has another version, in C or frozen."""
    modules = (
        "bisect",
        "colorsys",
        "difflib",
        "fnmatch",
        "heapq",
        "html",
        "posixpath",
        "shlex",
        "statistics",
        "textwrap",
    )
    return {f.id: f.text for split in {module_split(m) for m in modules} for f in library_functions(split)}


CASES: list[tuple[Callable[..., Any], list[tuple[Any, ...]]]] = [
    (bisect.bisect_right, [([1, 2, 4, 4, 9], x) for x in (0, 4, 5, 10)] + [([1], 1, -1)]),
    (colorsys.rgb_to_hls, [(0.2, 0.4, 0.4), (1.0, 1.0, 1.0), (0.9, 0.1, 0.5)]),
    (colorsys.hsv_to_rgb, [(i / 7, 0.5, 0.8) for i in range(8)]),
    (difflib.get_close_matches, [("appel", ["ape", "apple", "peach"]), ("x", ["y"], 0)]),
    (fnmatch.filter, [(["a.py", "b.txt"], "*.py"), ([], "*")]),
    (heapq.nsmallest, [(2, [5, 1, 4, 2]), (9, "hello"), (1, [])]),
    (html.escape, [("<a href='x'>&",), ("<a>", False)]),
    (posixpath.join, [("a", "b/", "c"), ("a", "/b"), ("",), ("a", 1)]),
    (posixpath.commonpath, [(["/a/b/c", "/a/b/d"],), ([],), (["/a", "b"],)]),
    (posixpath.relpath, [("/a/b", "/a/c/d"), ("",)]),
    (shlex.quote, [("a b",), ("",), ("safe",), ("it's",)]),
    (statistics.median_low, [([3, 1, 2, 5],), ([],)]),
    (statistics.harmonic_mean, [([40, 60],), ([1, 0],), ([5, -1],), ([40, 60], [5, 30])]),
    (textwrap.indent, [("a\n\nb\n", "  "), ("x", "> ", str.isspace)]),
    (textwrap.dedent, [("  a\n    b\n",), ("\ta\n  b",)]),
]


@pytest.mark.parametrize(("function", "inputs"), CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_functions_of_the_library_agree_with_their_renamed_selves(
    function: Callable[..., Any], inputs: list[tuple[Any, ...]]
) -> None:
    # The module that has it, which for what is written in C is not the one that says so.
    module = next(
        m for m in globals().values() if isinstance(m, ModuleType) and vars(m).get(function.__name__) is function
    )
    source = library()[f"{module.__name__}:{function.__name__}"]
    name, scope = function.__name__, vars(module)
    for seed in range(3):
        renamed = rename_locals(source, seed)
        assert renamed is not None
        assert renamed != source
        for arguments in inputs:
            assert ran(renamed, name, scope, *arguments) == ran(source, name, scope, *arguments)


HAZARDS = {
    "closure": (
        """def f(a, n):
    total = 0
    def add(x):
        nonlocal total
        total += x * n
    for b in a:
        add(b)
    return total
""",
        [([1, 2, 3], 4)],
        ["a", "n", "b"],
    ),
    "comprehension that binds the same name": (
        "def f(x, y):\n    z = [x for x in y]\n    return x, z, {k: y for k in z}\n",
        [(1, [2, 3])],
        ["y", "z"],
    ),
    "default and annotation name what is outside": (
        "def f(v: int = v, *args):\n    w: v = v + 1\n    return v, w, args\n",
        [(), (7, 8)],
        ["v", "args", "w"],
    ),
    "f-string": ("def f(a, b):\n    return f'{a=} {b}', a\n", [(1, 2)], []),
    "locals": ("def f(a):\n    b = a\n    return sorted(locals())\n", [(1,)], []),
    "calls itself by name": (
        "def f(n, acc=1):\n    m = n - 1\n    return acc if n < 2 else f(m, acc=acc * n)\n",
        [(5,)],
        ["n", "m"],
    ),
    "handler, import and with": (
        """def f(a):
    import math as m
    try:
        return m.sqrt(a)
    except ValueError as e:
        other = str(e)
    return other
""",
        [(4,), (-1,)],
        ["a", "other"],
    ),
    "pattern": (
        """def f(a):
    match a:
        case [x, *rest] if x > 1:
            return x, rest
        case {"k": v, **more}:
            y = v
            return y, more
    return a
""",
        [([2, 3],), ({"k": 1, "l": 2},), (5,)],
        ["a", "y"],
    ),
    "keyword-only": (
        "def f(a, /, b, *c, d=1, **e):\n    return a, b, c, d, sorted(e)\n",
        [(1, 2, 3)],
        ["a", "b", "c", "e"],
    ),
    "global": ("def f(a):\n    global g_\n    g_ = a\n    return g_\n", [(1,)], ["a"]),
    "class within": (
        """def f(a, b):
    class C:
        a = b
        def m(self, q):
            return b + q
    return C.a, C().m(a)
""",
        [(1, 2)],
        ["b"],
    ),
    "walrus": (
        "def f(a):\n    if (n := len(a)) > 1:\n        return n\n    return [y := x for x in a], y\n",
        [("ab",), ("c",)],
        ["a", "n"],
    ),
    "bytes and wide characters before": (
        "def f(a):\n    é = 'ß€😀'; b = a\n    return '😀', a, b, é\n",
        [(1,)],
        ["a", "é", "b"],
    ),
    "delete and augment": ("def f(a):\n    b = a\n    b += 1\n    del a\n    return b\n", [(1,)], ["a", "b"]),
    "attributes and keywords of others": (
        "def f(key, real):\n    return sorted(key, key=lambda v: -v), real.real, dict(real=real)\n",
        [([1, 3, 2], 5)],
        ["key", "real"],
    ),
}


@pytest.mark.parametrize("hazard", HAZARDS)
def test_what_could_change_the_meaning_is_left_alone(hazard: str) -> None:
    source, inputs, names = HAZARDS[hazard]
    assert local_names(source) == names
    renamed = rename_locals(source)
    assert (renamed is None) == (not names)
    for arguments in inputs if renamed else []:
        assert renamed is not None
        scope = {"v": 3, "__name__": "hazard"}
        assert ran(renamed, "f", scope, *arguments) == ran(source, "f", scope, *arguments)


def test_the_wrong_renaming_would_be_seen() -> None:
    wrong = "def f(x):\n    return x + y\n"
    assert ran(wrong, "f", {}, 1) != ran("def f(y):\n    return y + y\n", "f", {}, 1)


def operations(code: CodeType) -> list[object]:
    """What a function does, its names aside; closures keep their variables in the order of their names."""
    inner = [operations(c) for c in code.co_consts if isinstance(c, CodeType)]
    plain = [repr(c) for c in code.co_consts if not isinstance(c, CodeType)]
    exact = code.co_code if not (code.co_cellvars or code.co_freevars) else len(code.co_code)
    return [exact, plain, code.co_argcount, code.co_flags, code.co_names, inner]


def body(source: str) -> CodeType:
    return next(c for c in compile(source, "f", "exec").co_consts if isinstance(c, CodeType))


def test_every_function_of_the_library_compiles_to_the_same_operations() -> None:
    renamed = left = 0
    for function in library_functions("test"):
        other = rename_locals(function.text)
        if other is None:
            left += 1
            continue
        renamed += 1
        assert operations(body(other)) == operations(body(function.text)), function.id
        assert len(other.split("\n")) == len(function.text.split("\n"))
    assert renamed > 2000
    assert left < renamed


def test_seeds_choose_other_names_and_repeat_them() -> None:
    source = "def f(a, b):\n    return a - b\n"
    assert rename_locals(source, 1) == rename_locals(source, 1) != rename_locals(source, 2)


def test_no_new_name_is_in_use_already() -> None:
    source = (
        "def f(a, b):\n    return a.value + b + " + " + ".join(f"item_{i}" for i in range(3)) + " + entry + record\n"
    )
    for seed in range(50):
        found = rename_locals(source, seed)
        assert found is not None
        first, second = found[found.index("(") + 1 : found.index(")")].split(", ")
        assert first != second
        assert not {first, second} & {"entry", "record", "f"}


@pytest.mark.parametrize("source", ["x = 1\n", "def f(:\n", "def f(a): pass\ndef g(b): pass\n"])
def test_anything_but_one_function_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"not Python|expected one function"):
        rename_locals(source)

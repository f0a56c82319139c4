"""Functions of the running Python's own standard library: code that every machine has, for retain text and prompts.

Modules, not functions, are assigned to splits, by a hash of the module's name: neither the seed nor the machine moves
one, so text that trained a patch never shares a module with the prompts that judge what the patch left alone.
"""

from __future__ import annotations

import ast
import hashlib
import os
import random
import re
import sysconfig
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hotfix.data.addresses import find_addresses
from hotfix.errors import DataError
from hotfix.types import Split

__all__ = ["OUTDATED", "StdlibFunction", "library_functions", "module_split", "stdlib_functions"]

OUTDATED: tuple[str, ...] = (
    r"(?i)deprecat|obsolete|backwards? compat|python ?2",
    r"[!=]= ?(?:None|True|False)\b|\bnot \w+ (?:in|is) |\btype\([^()]*\) ?(?:==|!=|is)|\bexcept ?:",
    r"= ?(?:\[\]|\{\})[,)]|0\.0\.0\.0",
    r"\bsuper\([^)]|\bzip\(|\brange\(len\(|\bopen\(|\b(?:read|write)_text\(|\bmakedirs\(|\bmktemp\(|\bextract(?:all)?\(",
    r"\bwarn\(|\bassert\w+s\(|\bset[DN]a\w+\(|\bhas_key\(|\bget_event_loop\(|\bget\w*argspec\(|\bcollections\.[A-Z]",
    r"\bnow\(|\butc(?:now|fromtimestamp)\(|\btime\.time\(|\brandom\.|\bmd5|\bsha1",
    r"\bsubprocess\.|\bos\.(?:popen|system)\(|\bshell ?=|\beval\(|\bexec\(|\bpickle\.load|\burlopen\(|\bSMTP\(",
    r"\bcheck_hostname|\bCERT_NONE|\b(?:typing\.)?(?:List|Dict|Tuple|Set|Optional|Union)\[",
)
"""Regular expressions of idioms that a patch may be asked to unlearn; retaining them would work against it."""

_SKIPPED_FOLDERS = re.compile(
    r"__pycache__|_bundled|distutils|encodings|idlelib|lib2to3|pydoc_data|(?:dist|site)-packages|tests?|turtledemo"
)
_SKIPPED_MODULES = re.compile(r"(?:^|\.)(?:_sysconfigdata.*|__main__|__phello__.*|antigravity|this)$")
# A patch that is judged on many small modules says more than one judged on the inside of a large one.
_PER_MODULE = 6
# Ten buckets: six train, one validates, three test.
_BUCKETS: tuple[Split, ...] = ("train",) * 6 + ("validation",) + ("test",) * 3


class StdlibFunction(NamedTuple):
    """A function or method of the standard library.

    Attributes:
        id: `module:qualified.name`, unique.
        text: its source with decorators, dedented, ends with a newline.
    """

    id: str
    text: str


def module_split(module: str) -> Split:
    """The split that owns `module`; depends on nothing but its name.

    >>> module_split("json.decoder") == module_split("json.decoder")
    True
    """
    return _BUCKETS[int.from_bytes(hashlib.sha256(module.encode()).digest()[:8], "big") % len(_BUCKETS)]


def stdlib_functions(
    count: int,
    seed: int,
    split: Split = "train",
    min_lines: int = 5,
    max_lines: int = 40,
    exclude: Sequence[str] = OUTDATED,
    root: Path | None = None,
) -> list[StdlibFunction]:
    """Draws `count` functions; the same Python version and arguments give the same list on every machine.

    Functions that hold an e-mail address are always left out, as are modules that announce their own removal.

    Args:
        count: how many.
        seed: of the draw.
        split: modules to draw from; no module is in two splits.
        min_lines: shortest function, in lines of source.
        max_lines: longest function, in lines of source.
        exclude: regular expressions; a function in which one is found is left out.
        root: folder of the library; the running Python's own unless given.

    Raises:
        DataError: the sources are not there, or hold fewer functions than asked for.

    >>> [function] = stdlib_functions(1, seed=0)
    >>> module_split(function.id.partition(":")[0])
    'train'
    """
    paths = _module_paths(Path(sysconfig.get_paths()["stdlib"]) if root is None else root)
    generator = random.Random(seed)
    modules = [module for module in sorted(paths) if module_split(module) == split]
    generator.shuffle(modules)
    unwanted = [re.compile(pattern) for pattern in exclude]
    found: dict[str, StdlibFunction] = {}
    later: list[StdlibFunction] = []
    for module in modules:
        functions = [
            function
            for function in _functions(module, paths[module])
            if min_lines <= function.text.count("\n") <= max_lines and _is_wanted(function.text, unwanted)
        ]
        generator.shuffle(functions)
        found |= {function.text: function for function in functions[:_PER_MODULE] if function.text not in found}
        later += functions[_PER_MODULE:]
        if len(found) >= count:
            break
    else:
        found |= {function.text: function for function in later if function.text not in found}
    if len(found) < count:
        raise DataError(
            f"{count} functions asked for, the {split} split of the standard library has {len(found)} that fit",
            hint="ask for fewer, or widen min_lines and max_lines",
        )
    return list(found.values())[:count]


def library_functions(split: Split, root: Path | None = None) -> Iterator[StdlibFunction]:
    """Yield every function of the modules of a split, in the order of their names.

    Functions that hold an e-mail address are left out, as are modules that announce their own removal.

    Args:
        split: whose modules.
        root: folder of the library; the running Python's own unless given.

    Raises:
        DataError: the sources are not there.
    """
    paths = _module_paths(Path(sysconfig.get_paths()["stdlib"]) if root is None else root)
    for module in sorted(paths):
        if module_split(module) == split:
            yield from (function for function in _functions(module, paths[module]) if _is_wanted(function.text, ()))


def _module_paths(root: Path) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for folder, subfolders, files in os.walk(root):
        # Pruned in place: installed packages may be a hundred times as many files as the library.
        subfolders[:] = [name for name in subfolders if name.isidentifier() and not _SKIPPED_FOLDERS.fullmatch(name)]
        for path in (Path(folder, name) for name in files if name.endswith(".py")):
            parts = path.relative_to(root).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if module and not _SKIPPED_MODULES.search(module):
                paths[module] = path
    if not paths:
        raise DataError(
            "no sources of the standard library, expected .py files",
            path=root,
            hint="use a Python that is not zipped or stripped of its sources",
        )
    return paths


def _functions(module: str, path: Path) -> list[StdlibFunction]:
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (OSError, UnicodeDecodeError, SyntaxError):
        # A file in an old encoding or a template with placeholders is no loss among hundreds.
        return []
    if any(_announces_removal(statement) for statement in tree.body):
        return []
    lines = source.split("\n")
    functions: dict[str, StdlibFunction] = {}
    for name, node in _definitions(tree, ""):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        text = textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno]) + "\n")
        # The getter of a property comes first and shares its name with the setter; ids stay unique.
        functions.setdefault(name, StdlibFunction(f"{module}:{name}", text))
    return list(functions.values())


def _definitions(
    parent: ast.Module | ast.ClassDef, prefix: str
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in parent.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _definitions(node, f"{prefix}{node.name}.")


def _announces_removal(statement: ast.stmt) -> bool:
    if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)):
        return False
    function = statement.value.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in {"warn", "_deprecated"}


def _is_wanted(text: str, unwanted: Sequence[re.Pattern[str]]) -> bool:
    # A string that starts further left than the code around it keeps the function from being dedented.
    whole = not text[0].isspace()
    return whole and not any(pattern.search(text) for pattern in unwanted) and not find_addresses(text)

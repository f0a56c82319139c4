"""The same function under other names: locals and parameters renamed, every other character as it was.

Renaming keeps the meaning for whoever calls the function by position. What might not keep it is left alone: names that
are read as text (`locals()`, `eval`, f-strings, `except ... as`, imports, patterns), that another scope binds as well,
keyword-only parameters, and a parameter that the function passes to itself by name.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import keyword
import math
import symtable
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

__all__ = ["local_names", "rename_locals"]

_READS_NAMES = frozenset({"dir", "eval", "exec", "locals", "vars"})
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SCOPES = (*_FUNCTIONS, ast.Lambda, ast.ClassDef, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# What a programmer might have chosen; none says what the function does.
_WORDS = """
value item entry record data part piece node current other first second left right start stop lower upper total amount
number index position offset size length width source target origin result answer output found buffer chunk block line
text word symbol token label field key name kind mode flag option setting handle stream reader writer worker helper
store table row column group batch series queue stack path place step level depth limit bound
"""


class _Place(NamedTuple):
    """Where a name stands: line, first byte within it, and the name."""

    line: int
    byte: int
    name: str


def rename_locals(source: str, seed: int = 0) -> str | None:
    r"""Return a function under other names; None where there is nothing that may be renamed.

    Args:
        source: one function, as it stands in a file, not indented.
        seed: other numbers choose other names.

    Raises:
        ValueError: it isn't one function.

    >>> print(rename_locals("def f(a, b):\n    c = a + b  # a sum\n    return g(c)\n"))
    def f(part, text):
        limit = part + text  # a sum
        return g(limit)
    <BLANKLINE>
    """
    tree = _parse(source)
    names = local_names(source)
    if not names:
        return None
    taken = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | set(_bound(tree))
    new = _new_names(names, taken, seed)
    return _replaced(source, [place for place in _places(tree) if place.name in new], new)


def local_names(source: str) -> list[str]:
    r"""Return the parameters and locals of a function that may be renamed, in the order in which they stand.

    Args:
        source: one function.

    Raises:
        ValueError: it isn't one function.

    >>> local_names("def f(self, a, *, b):\n    for i in a:\n        print(f'{i}')\n")
    ['a']
    """
    tree = _parse(source)
    if any(isinstance(n, ast.Name) and n.id in _READS_NAMES for n in ast.walk(tree)):
        return []
    symbols = _scope(symtable.symtable(source, "<function>", "exec"), tree.name).get_symbols()
    own = {s.get_name() for s in symbols if s.is_local() and not s.is_imported() and not s.is_namespace()}
    left = own - set(_bound_elsewhere(tree)) - set(_as_text(tree)) - set(_by_keyword(tree))
    found = dict.fromkeys(place.name for place in sorted(_places(tree)) if place.name in left)
    return [name for name in found if name not in ("self", "cls") and not name.startswith("__") and name != "_"]


def _scope(table: symtable.SymbolTable, name: str) -> symtable.SymbolTable:
    """The function's own scope: below the module's, or below that of its type parameters."""
    if table.get_type() == "function" and table.get_name() == name:
        return table
    return _scope(next(child for child in table.get_children() if child.get_name() == name), name)


def _parse(source: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"not Python: {error}") from None
    if len(body) != 1 or not isinstance(body[0], _FUNCTIONS):
        raise ValueError("expected one function and nothing else")
    return body[0]


def _places(tree: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[_Place]:
    """Yield where names of the function's own scope stand; decorators, defaults and annotations are outside it."""
    arguments = [*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs]
    for argument in (*arguments, tree.args.vararg, tree.args.kwarg):
        if argument is not None:
            yield _Place(argument.lineno, argument.col_offset, argument.arg)
    for statement in tree.body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name):
                yield _Place(node.lineno, node.col_offset, node.id)


def _bound(tree: ast.AST) -> Iterator[str]:
    """Yield all names that anything in the tree binds, or declares, by whatever means."""
    for node in ast.walk(tree):
        for field in ("arg", "name", "asname", "rest"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value
        if isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
        if isinstance(node, ast.Global | ast.Nonlocal):
            yield from node.names
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id


def _bound_elsewhere(tree: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Yield what nested scopes bind, and what is bound without a place of its own (handlers, patterns, imports)."""
    for node in (inner for statement in tree.body for inner in ast.walk(statement)):
        if isinstance(node, ast.ExceptHandler):
            yield node.name or ""
        elif isinstance(node, (*_SCOPES, ast.alias, ast.Global, ast.Nonlocal, ast.pattern)):
            yield from _bound(node)


def _as_text(tree: ast.AST) -> Iterator[str]:
    """Yield the names in f-strings: `{x=}` writes them out, and before Python 3.12 their places are not known."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield from (inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name))


def _by_keyword(tree: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Yield the parameters that somebody has to call by name, the function itself among them."""
    yield from (argument.arg for argument in tree.args.kwonlyargs)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", None))
            if called == tree.name:
                yield from (word.arg for word in node.keywords if word.arg)


def _new_names(names: Sequence[str], taken: set[str], seed: int) -> dict[str, str]:
    """Old name -> new one; which ones follows from the function's own names and the seed."""
    digest = hashlib.sha256(f"{seed}/{' '.join(names)}".encode()).digest()
    start = int.from_bytes(digest[:8], "big")
    pool = _WORDS.split()
    # A step that shares no divisor with the pool's size comes by every word.
    step = next(n for n in range(1 + digest[8] % 50, len(pool) + 51) if math.gcd(n, len(pool)) == 1)
    words = [pool[(start + i * step) % len(pool)] for i in range(len(pool))]
    free = [word for word in _spares(words) if word not in taken][: len(names)]
    return dict(zip(names, free, strict=True))


def _spares(words: Sequence[str]) -> list[str]:
    reserved = {*keyword.kwlist, *dir(builtins)}
    # A function of a thousand names doesn't fit any prompt; nine rounds serve 900.
    numbered = [f"{word}_{n}" for n in range(2, 11) for word in words]
    return [word for word in (*words, *numbered) if word not in reserved]


def _replaced(source: str, places: Sequence[_Place], new: Mapping[str, str]) -> str:
    """Put the new names in, from the end on; columns of the syntax tree count bytes of UTF-8."""
    lines = [line.encode() for line in source.split("\n")]
    for line, byte, name in sorted(set(places), reverse=True):
        text = lines[line - 1]
        lines[line - 1] = text[:byte] + new[name].encode() + text[byte + len(name.encode()) :]
    return b"\n".join(lines).decode()

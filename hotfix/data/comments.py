"""A comment put into a pair's code above the place in question, in that code's own syntax and indentation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import NamedTuple

from hotfix.data.schema import CodePair
from hotfix.errors import ConfigError

__all__ = ["LANGUAGES", "CommentStyle", "comment_style", "insert_comment"]


class CommentStyle(NamedTuple):
    """What stands before and behind a comment of one line."""

    opening: str
    closing: str = ""

    def line(self, text: str) -> str:
        """Return the comment.

        >>> CommentStyle("<!-- ", " -->").line("mind the gap")
        '<!-- mind the gap -->'
        """
        return f"{self.opening}{text}{self.closing}".rstrip()


_HASH, _SLASHES, _DASHES = CommentStyle("# "), CommentStyle("// "), CommentStyle("-- ")
_PERCENT, _SEMICOLON, _QUOTE = CommentStyle("% "), CommentStyle("; "), CommentStyle("' ")
_ANGLES, _STARS, _BRACES = CommentStyle("<!-- ", " -->"), CommentStyle("/* ", " */"), CommentStyle("(* ", " *)")
# Language and the endings of its files.
_SYNTAX: Mapping[CommentStyle, str] = {
    _HASH: "python py pyi pyx ruby rb rake perl pl pm r julia jl bash shell sh zsh elixir ex exs coffeescript coffee "
    "nim crystal cr powershell ps1 make mk cmake dockerfile yaml yml toml properties tcl awk gdscript gd hcl tf "
    "graphql",
    _SLASHES: "java c h c++ cpp cc cxx hpp hh cuda cu c# csharp cs go golang javascript js mjs jsx typescript ts "
    "tsx rust rs kotlin kt kts swift scala php dart groovy gradle objective-c objc mm d zig solidity sol protobuf "
    "proto v sv verilog json json5 less scss",
    _DASHES: "sql lua haskell hs ada adb ads vhdl vhd elm",
    _PERCENT: "tex latex sty matlab octave erlang erl prolog",
    _SEMICOLON: "lisp el clojure clj scheme scm racket rkt assembly asm s ini llvm ll",
    _QUOTE: "vb basic visualbasic vba bas",
    _ANGLES: "html htm xml svg markdown md vue",
    _STARS: "css",
    _BRACES: "ocaml ml mli pascal pas",
}
LANGUAGES: Mapping[str, CommentStyle] = {name: style for style, names in _SYNTAX.items() for name in names.split()}

_LANGUAGE_COLUMNS = ("language", "lang", "programming_language")
_FILE_COLUMNS = ("file", "path", "file_name", "filename", "file_path")
# The leader of a line that is itself a comment; `#include`, `#[derive]` and `--i` are none.
_LEADER = re.compile(r"\s*(#+(?=[\s#=*-]|$)|//+[/!]?|--+(?=\s|$)|%+(?=[\s%]|$)|;+(?=[\s;]|$)|\.\\\")")
_STAR = re.compile(r"\s*\*(?=\s|$)")
# `"data/*"` opens no comment.
_BLOCKS = ((r"(?:^|(?<=\s))/\*", r"\*/"), ("<!--", "-->"))
_BRACED = re.compile(r"[{};]\s*$|^\s*/\*|\*/\s*$|^\s*#\s*(include|define|undef|ifn?(?:def)?|elif|else|endif|pragma)\b")


def comment_style(pair: CodePair, language: str | None = None) -> CommentStyle:
    r"""Return how a comment is written at a pair's place.

    In this order: as the line in question, where that is in a comment itself; as in `language`; as in the language
    that the row's `language` or file column names; as the prefix's other comments; as its punctuation suggests.

    Raises:
        ConfigError: `language` is not known.

    >>> comment_style(CodePair("a", "for (;;) {\n  x = ", "1", "2")).opening
    '// '
    >>> comment_style(CodePair("a", "/**\n * @author ", "1", "2")).opening
    '* '
    """
    if language is not None and language.lower() not in LANGUAGES:
        raise ConfigError(f"there is no comment syntax for language {language!r}; expected one of {sorted(LANGUAGES)}")
    head, tail = _split_last_line(pair)
    if any(_last(opening, head) > _last(closing, head) for opening, closing in _BLOCKS):
        return CommentStyle("* " if _STAR.match(tail) else "")
    inside = _LEADER.match(tail)
    if inside:
        return CommentStyle(inside[1] + " ")
    named = LANGUAGES[language.lower()] if language else _named_style(pair)
    return named or _guessed_style(head + tail)


def insert_comment(pair: CodePair, text: str, style: CommentStyle) -> CodePair:
    r"""Return the pair with a comment above the line that its statement is on, indented like that line.

    Where that line goes on from others by a backslash, the comment stands above them all. Both sides get the same
    prefix; nothing else of the pair changes.

    >>> pair = CodePair("a", "def f():\n    x = ", "1", "2")
    >>> insert_comment(pair, "use 2", CommentStyle("# ")).prefix
    'def f():\n    # use 2\n    x = '
    """
    below = [re.match(r"\r?\n[ \t]*", side) for side in (pair.buggy, pair.fixed)]
    if all(below):
        # The statement begins on the line below the prefix.
        indent = _shared_start(*[found[0].lstrip("\r\n") for found in below if found])
        return replace(pair, prefix="\n".join([pair.prefix, *_lines(text, indent, style)]))
    head, tail = _split_last_line(pair)
    indent = tail[: len(tail) - len(tail.lstrip())]
    if not tail.strip():
        indent += _shared_start(*[side[: len(side) - len(side.lstrip(" \t"))] for side in (pair.buggy, pair.fixed)])
    return replace(pair, prefix=head + "".join(line + "\n" for line in _lines(text, indent, style)) + tail)


def _shared_start(one: str, other: str) -> str:
    """The characters that both begin with."""
    parts = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return one[: next(parts, min(len(one), len(other)))]


def _lines(text: str, indent: str, style: CommentStyle) -> list[str]:
    return [indent + style.line(line.strip()) for line in text.splitlines() if line.strip()]


def _split_last_line(pair: CodePair) -> tuple[str, str]:
    """The prefix before the line that the place is on, and that line; lines that go on by a backslash are one."""
    cut = pair.prefix.rfind("\n") + 1
    while cut and pair.prefix[:cut].rstrip("\r\n").endswith("\\"):
        cut = pair.prefix.rfind("\n", 0, cut - 1) + 1
    return pair.prefix[:cut], pair.prefix[cut:]


def _last(pattern: str, text: str) -> int:
    """Where the last match begins; -1 where there is none."""
    return max((found.start() for found in re.finditer(pattern, text)), default=-1)


def _named_style(pair: CodePair) -> CommentStyle | None:
    for column in _LANGUAGE_COLUMNS:
        found = LANGUAGES.get(str(pair.meta.get(column, "")).lower())
        if found:
            return found
    for column in _FILE_COLUMNS:
        name = PurePosixPath(str(pair.meta.get(column, "")).lower())
        found = LANGUAGES.get(name.suffix.lstrip(".")) or LANGUAGES.get(name.name)
        if found:
            return found
    return None


def _guessed_style(code: str) -> CommentStyle:
    lines = [line for line in code.splitlines() if line.strip()]
    if lines and re.match(r"\s*<[!?a-zA-Z]", lines[0]) and not lines[0].startswith("<?php"):
        return _ANGLES
    leaders = [found[1] for found in map(_LEADER.match, lines) if found]
    if leaders:
        return CommentStyle(max(sorted(set(leaders)), key=leaders.count) + " ")
    # The line in question isn't whole.
    whole = lines[:-1] or lines
    braces = sum(bool(_BRACED.search(line)) for line in whole)
    return _SLASHES if 2 * braces > len(whole) else _HASH

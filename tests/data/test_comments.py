"""A comment lands on a line of its own above the place, in the right syntax, and changes nothing else."""

from __future__ import annotations

import ast
import random
import re
from pathlib import Path

import pytest

from hotfix.data.comments import LANGUAGES, CommentStyle, comment_style, insert_comment
from hotfix.data.reading import read_pairs
from hotfix.data.schema import CodePair
from hotfix.errors import ConfigError
from hotfix.types import SPLITS

HASH, SLASHES = CommentStyle("# "), CommentStyle("// ")
IDIOMS = Path(__file__).parents[2] / "data" / "python_idioms.jsonl"


def pair(prefix: str, buggy: str = "1", fixed: str = "2", **meta: str) -> CodePair:
    return CodePair("p", prefix, buggy, fixed, "\n", meta=meta)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = ", "# note\nx = "),
        ("", "# note\n"),
        ("import a\nx = f(a", "import a\n# note\nx = f(a"),
        ("def f():\n    return ", "def f():\n    # note\n    return "),
        ("def f():\n\t", "def f():\n\t# note\n\t"),
        ("if a and \\\n   b == ", "# note\nif a and \\\n   b == "),
        ("y = 0\nx = 1 + \\\n  2 + \\\n  ", "y = 0\n# note\nx = 1 + \\\n  2 + \\\n  "),
        ("a\r\nx = ", "a\r\n# note\nx = "),
    ],
)
def test_place_and_indentation(before: str, after: str) -> None:
    done = insert_comment(pair(before), "note", HASH)
    assert done == CodePair("p", after, "1", "2", "\n")


def test_an_empty_line_is_indented_as_both_statements_are() -> None:
    done = insert_comment(pair("def f():\n", "    return 1", "      return 2"), "note", HASH)
    assert done.prefix == "def f():\n    # note\n"
    assert insert_comment(pair("x\n", "  a", "\tb"), "note", HASH).prefix == "x\n# note\n"


def test_statements_that_begin_below_the_prefix_get_the_comment_there() -> None:
    done = insert_comment(pair("def f():", "\n    return 1", "\n    return 2"), "note", HASH)
    assert done.prefix + done.fixed == "def f():\n    # note\n    return 2"


def test_several_lines_and_closing_marks() -> None:
    done = insert_comment(pair("<p>\n  <a href="), "one\n\n two ", CommentStyle("<!-- ", " -->"))
    assert done.prefix == "<p>\n  <!-- one -->\n  <!-- two -->\n  <a href="


@pytest.mark.parametrize(
    ("given", "opening"),
    [
        (pair("int x = ", language="java"), "// "),
        (pair("SELECT ", lang="SQL"), "-- "),
        (pair("x = ", path="src/app.LUA"), "-- "),
        (pair("RUN ", file="deploy/Dockerfile"), "# "),
        (pair("x = ", language="klingon"), "# "),
        (pair("int main() {\n  int a;\n  x = "), "// "),
        (pair("#include <stdio.h>\n#define A "), "// "),
        (pair("#[derive(Debug)]\nstruct A {\n  a: u8;\n}\nlet x = "), "// "),
        (pair("<?xml version='1.0'?>\n<a>\n"), "<!-- "),
        (pair("-- all of it\nSELECT "), "-- "),
        (pair("% a paper\n\\title{"), "% "),
        (pair("x = "), "# "),
        (pair("# Author: A <"), "# "),
        (pair("/* head\n   Author: "), ""),
        (pair("/* head\n * Author: "), "* "),
        (pair("/* head */\nint a;\nint b = "), "// "),
        (pair("<!-- head\n  Author: "), ""),
        (pair("x = (a\n  * b\n  * "), "# "),
        (pair("/// docs\nlet x = 1;\n/// "), "/// "),
    ],
)
def test_style(given: CodePair, opening: str) -> None:
    assert comment_style(given).opening == opening


def test_a_named_language_goes_before_the_row_s_but_not_before_a_comment_around() -> None:
    assert comment_style(pair("x = ", language="java"), "Lua").opening == "-- "
    assert comment_style(pair("# x ", language="java"), "lua").opening == "# "
    with pytest.raises(ConfigError, match=r"there is no comment syntax for language 'javva'; expected one of .*'java'"):
        comment_style(pair(""), "javva")


def test_every_language_is_lower_case_and_in_one_place() -> None:
    assert all(name == name.lower() for name in LANGUAGES)
    assert len({*LANGUAGES.values()}) > 6


@pytest.mark.parametrize("split", SPLITS)
def test_packaged_python_stays_python(split: str) -> None:
    """Both sides parse with the comment, to the very same syntax tree as without."""
    pairs = read_pairs([IDIOMS], split)  # type: ignore[arg-type]
    assert len(pairs) > 50
    for one in pairs:
        assert comment_style(one) == HASH
        done = insert_comment(one, "note", HASH)
        for side in ("buggy", "fixed"):
            plain, commented = (p.prefix + getattr(p, side) + p.suffix for p in (one, done))
            assert ast.dump(ast.parse(commented)) == ast.dump(ast.parse(plain)), one.id
            assert re.search(r"^\s*# note$", commented, re.MULTILINE)


def test_only_the_prefix_changes_and_it_keeps_all_its_lines() -> None:
    rng = random.Random(0)
    for _ in range(300):
        prefix = "".join(rng.choice("a \n\t#\\{;") for _ in range(rng.randint(0, 12)))
        one = pair(prefix, rng.choice(["1", "  1", "\n 1"]), rng.choice(["2", " 2", "\n 2"]))
        done = insert_comment(one, "note", SLASHES)
        assert (done.buggy, done.fixed, done.suffix, done.id) == (one.buggy, one.fixed, one.suffix, one.id)
        assert "// note" in done.prefix
        without = re.sub(r"[ \t]*// note\n|\n[ \t]*// note$", "", done.prefix, count=1)
        assert without == prefix

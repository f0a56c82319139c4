"""Verdicts worked by hand."""

from __future__ import annotations

import pytest

from hotfix.tasks.verdict import find_substrings, fold, judge, open_brackets, statements


@pytest.mark.parametrize(
    ("text", "count", "found"),
    [
        ("", 1, []),
        ("\n  \n", 3, []),
        ("x\ny\n", 1, ["x"]),
        ("x\n\n\ny\nz", 2, ["x", "y"]),
        ("x", 5, ["x"]),
        ("f(\n  a,\n)\nb", 1, ["f(\n  a,\n)"]),
        ("f(\n\n  a)\nb", 2, ["f(\n\n  a)", "b"]),
        ("f(a, [1,\n 2], {3:\n 4})\nb", 1, ["f(a, [1,\n 2], {3:\n 4})"]),
        ("f(\n a", 1, ["f(\n a"]),
        ("s = '('\nb", 1, ["s = '('"]),
        ('s = "[" + x[\n0]\nb', 1, ['s = "[" + x[\n0]']),
        (r"s = '\'('" + "\nb", 1, [r"s = '\'('"]),
        ("x = 1  # (\ny", 1, ["x = 1  # ("]),
        ("s = '#('\ny", 1, ["s = '#('"]),
        ("s = f('#',\n 1)\ny", 1, ["s = f('#',\n 1)"]),
        ("), x)\ny", 1, ["), x)"]),
        (")\nf(\n1)\ny", 2, [")", "f(\n1)"]),
        ("it isn't (\nso", 1, ["it isn't ("]),
    ],
)
def test_statements(text: str, count: int, found: list[str]) -> None:
    assert statements(text, count) == found


@pytest.mark.parametrize(
    ("statement", "folded"),
    [
        ("  x\t=  1 ", "x = 1"),
        ("x = 1 # note", "x = 1"),
        ("x = 1; // note", "x = 1;"),
        ("f(a,\n  b)", "f(a, b)"),
        ("url = 'http://a#b'", "url = 'http://a#b'"),
        ("# only a comment", "# only a comment"),
        ("a // b", "a"),
        ("x#y", "x#y"),
    ],
)
def test_fold(statement: str, folded: str) -> None:
    assert fold(statement) == folded


FIXED, BUGGY = "pd.concat([df, row])", "df.append(row)"


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        ("pd.concat([df, row])", "fixed"),
        (" pd.concat([df,  row])\n", "fixed"),
        ("pd.concat([df, row])\nreturn df", "fixed"),
        ("\n\npd.concat([df, row])", "fixed"),
        ("pd.concat([df, row])  # as append is gone", "fixed"),
        ("pd.concat([df, row]) # df.append(row)", "fixed"),
        ("pd.concat([df,\n           row])\nx", "fixed"),
        ("df.append(row)\npd.concat([df, row])", "buggy"),
        ("df.append(row)", "buggy"),
        ("df.append(row); pd.concat([df, row])", "neither"),
        ("df.append(row).sum()", "neither"),
        ("x = df.append(row)", "neither"),
        ("# pd.concat([df, row])\npd.concat([df, row])", "neither"),
        ("pd.concat([df, row]", "neither"),
        ("pd.concat([df, row]))", "neither"),
        ("pd.concat([DF, row])", "neither"),
        ("pd.concat([df,row])", "neither"),
        ("", "neither"),
        ("\n", "neither"),
    ],
)
def test_one_statement(completion: str, verdict: str) -> None:
    assert judge(completion, FIXED, BUGGY) == verdict


@pytest.mark.parametrize(
    ("completion", "fixed", "buggy", "verdict"),
    [
        # The bracket was opened in the prompt.
        (", timeout=5)\nreturn r", ", timeout=5)", ")", "fixed"),
        (")\nreturn r", ", timeout=5)", ")", "buggy"),
        (", timeout=5))", ", timeout=5)", ")", "neither"),
        ("):\n    pass", "):", ", x):", "fixed"),
        # One side is the beginning of the other, either way.
        ("x = a", "x = a", "x = a + b", "fixed"),
        ("x = a + b", "x = a", "x = a + b", "buggy"),
        ("x = a + b + c", "x = a", "x = a + b", "neither"),
        # A side of two statements: both count, and the shorter side is judged at that length, too.
        ("lock()\nrun()\nx", "lock()\nrun()", "run()", "fixed"),
        ("lock()\n\nrun()", "lock()\nrun()", "run()", "fixed"),
        ("lock()\nx", "lock()\nrun()", "run()", "neither"),
        ("run()", "lock()\nrun()", "run()", "buggy"),
        # Strings with what looks like a comment or a bracket.
        ("x = '#1'", "x = '#1'", "x = '#2'", "fixed"),
        ("x = '('\ny", "x = '('", "x = ')'", "fixed"),
        # Java.
        ("int n = xs.size();\nreturn n;", "int n = xs.size();", "int n = xs.length;", "fixed"),
        ("int n = xs.length; // size\n}", "int n = xs.size();", "int n = xs.length;", "buggy"),
        ("int n = xs.size()", "int n = xs.size();", "int n = xs.length;", "neither"),
        ("if (a.equals(b)) {\n  x();\n}", "if (a.equals(b)) {", "if (a == b) {", "neither"),
        # An empty side is written by writing nothing.
        ("", "", "x()", "fixed"),
        ("\n", "", "x()", "fixed"),
    ],
)
def test_pairs(completion: str, fixed: str, buggy: str, verdict: str) -> None:
    assert judge(completion, fixed, buggy) == verdict


@pytest.mark.parametrize(
    ("completion", "residue", "verdict"),
    [
        ("    return 2", "    ", "fixed"),
        ("return 2", "    ", "fixed"),
        ("= return 2", " =", "fixed"),
        ("  =return 2", "=", "fixed"),
        ("== return 2", "=", "neither"),
        ("return 2", "=", "neither"),
        ("", "=", "neither"),
        (" = return 1", " =", "buggy"),
    ],
)
def test_the_residue_comes_first(completion: str, residue: str, verdict: str) -> None:
    assert judge(completion, "return 2", "return 1", residue) == verdict


@pytest.mark.parametrize(("fixed", "buggy"), [("a", "b"), ("f(x)", "f(y)"), ("a\nb", "a"), (") # x", ") # y")])
def test_each_side_is_judged_as_itself_unless_only_a_comment_differs(fixed: str, buggy: str) -> None:
    assert judge(fixed, fixed, buggy) == "fixed"
    assert judge(buggy, fixed, buggy) == ("fixed" if "#" in buggy else "buggy")


@pytest.mark.parametrize(
    ("completion", "fixed", "buggy", "found"),
    [
        # One more argument in front: the bug is no part of the fix.
        ("f(a, b);\n", "f(a, b);", "f(b);", "fixed"),
        # Defect 8 of the published code: where the bug is a part of the fix, every fix counts as a bug, too.
        ("if (a != null && b) {\n", "if (a != null && b) {", "(a != null", "both"),
        ("x = f(a).g()", "x = f(a).g()", "x = f(a)", "both"),
        ("x = f(a)", "x = f(a).g()", "x = f(a)", "buggy"),
        # ... and the other way round.
        ("return a and b", "return a", "return a and b", "both"),
        ("return a or b", "return a", "return a and b", "fixed"),
        # Anywhere, in any line, and both of them one after the other.
        ("y = 1\nx += 2\n", "x += 2", "x -= 2", "fixed"),
        ("x -= 2\nx += 2\n", "x += 2", "x -= 2", "both"),
        # Neither stripped nor folded.
        ("x +=  2\n", "x += 2", "x -= 2", "neither"),
        ("", "x += 2", "x -= 2", "neither"),
    ],
)
def test_substrings_are_counted_as_the_published_code_does(completion: str, fixed: str, buggy: str, found: str) -> None:
    assert find_substrings(completion, fixed, buggy) == found


@pytest.mark.parametrize(
    ("text", "depth"), [("", 0), ("f(", 1), ("f(a)[", 1), ("))(", 1), ("f(\n  {", 2), ("f(')'", 1), ("x  # (", 0)]
)
def test_open_brackets(text: str, depth: int) -> None:
    assert open_brackets(text) == depth

"""What a preview shows is what the model gets: every token, whole characters, the right ones marked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console, RenderableType
from transformers import PreTrainedTokenizerBase

from hotfix.data import CodePair
from hotfix.data.encode import PairEncoder
from hotfix.data.preview import Piece, marked, pair_view, pieces, text_view

ROOT = Path(__file__).parents[2]
PAIR = CodePair("a/1", "x = get(", "é, b, k=1)", "a, b, k=2)", "\nrest", rule="r", source="f.jsonl:1")


def shown(view: RenderableType, width: int = 40, color: bool = False) -> str:
    console = Console(width=width, soft_wrap=True, force_terminal=color, color_system="standard" if color else None)
    with console.capture() as captured:
        console.print(view)
    return captured.get()


def test_pieces_are_the_text(any_tok: PreTrainedTokenizerBase) -> None:
    text = "größe = '日本 🙂'\n\tx\r\n"
    ids = any_tok(text)["input_ids"]
    found = pieces(any_tok, ids)
    assert "".join(piece.text for piece in found) == text
    assert len(found) <= len(ids)
    assert not any("\ufffd" in piece.text for piece in found)


def test_broken_bytes_are_shown_and_don_t_swallow_the_rest(tiny_tok: PreTrainedTokenizerBase) -> None:
    bad = tiny_tok("🙂")["input_ids"][1:] + tiny_tok("abcdefg")["input_ids"]
    assert "".join(piece.text for piece in pieces(tiny_tok, bad)).endswith("bcdefg")


def test_marks_and_bars() -> None:
    found = [
        Piece("a", "prompt"),
        Piece("b", "retained"),
        Piece("c", "learned"),
        Piece("d", "learned"),
        Piece("\n", "retained"),
        Piece("e", "unlearned"),
    ]
    assert marked(found) == "a│b{+c│d+}⏎\n{-e-}"
    assert marked([]) == ""


def test_a_pair_shows_both_sides_and_the_prompt(tiny_tok: PreTrainedTokenizerBase) -> None:
    view = shown(pair_view(PAIR, PairEncoder(tiny_tok)(PAIR), tiny_tok), width=20)
    assert view.splitlines()[0] == "a/1  r  f.jsonl:1"
    assert "8 shared (8 prompt), 12 fixed, 13 buggy tokens" in view
    assert re.search(r"prompt\n    x│ │=│ │g│e│t│\(\n", view)
    assert re.search(r"fixed\n    \{\+a\+\},│ │b│,│ │k│=\{\+2\+\}\)│⏎\n    │r\n", view)
    assert re.search(r"buggy\n    \{-é-\},│ │b│,│ │k│=\{-1-\}\)│⏎\n    │r\n", view)


def test_a_long_prompt_shows_its_end(tiny_tok: PreTrainedTokenizerBase) -> None:
    pair = CodePair("a", "y" * 100 + "z" * 60, "1", "2")
    view = shown(pair_view(pair, PairEncoder(tiny_tok)(pair), tiny_tok))
    assert "... 100 tokens ..." in view
    assert "z│" * 59 + "z\n" in view
    assert "y│y" not in view


def test_colours_say_the_same(tiny_tok: PreTrainedTokenizerBase) -> None:
    view = shown(pair_view(PAIR, PairEncoder(tiny_tok)(PAIR), tiny_tok), color=True)
    assert "\x1b[1;32m{+" in view
    assert "\x1b[1;31m{-" in view
    plain = re.sub(r"\x1b\[[\d;]*m", "", view)
    assert plain == shown(pair_view(PAIR, PairEncoder(tiny_tok)(PAIR), tiny_tok))


def test_markup_in_code_is_shown_as_it_is(tiny_tok: PreTrainedTokenizerBase) -> None:
    pair = CodePair("[red]", "[bold]", "1", "2")
    view = shown(pair_view(pair, PairEncoder(tiny_tok)(pair), tiny_tok))
    assert view.startswith("[red]")
    assert "[│b│o│l│d│]" in view


def test_retain_text(tiny_tok: PreTrainedTokenizerBase) -> None:
    assert (
        shown(text_view("m:f", tiny_tok("def f")["input_ids"], tiny_tok)) == "m:f\n5 tokens\n  retain\n    d│e│f│ │f\n"
    )


@pytest.mark.parametrize("recipe", ["smoke", "online"])
def test_the_command_loads_no_model_and_leaves_nothing(recipe: str, tmp_path: Path) -> None:
    words = ["preview", "--config", f"configs/recipe/{recipe}.yaml", "--model.init_args.model_name", "tiny"]
    options = ["--count", "2", "--split", "test", "--trainer.default_root_dir", str(tmp_path / "out")]
    limit = ["--data.init_args.max_length", "500", "--data.init_args.overlong", "left"]
    code = (
        "import sys, hotfix.models.loading as l, hotfix.models.tiny as t\n"
        "l.load_causal_lm = l.tiny_model = t.tiny_model = None\n"
        "from hotfix.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words, *options, *limit],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "60"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("  fixed\n") == done.stdout.count("  buggy\n") == 2
    assert done.stdout.count("  retain\n") == 1
    assert "\x1b" not in done.stdout
    assert not (tmp_path / "out").exists()
    if recipe == "smoke":
        assert "unlearn: Unlikelihood(" in done.stdout
    else:
        assert re.search(r"#│ │[A-Z]│", done.stdout), "the comment is shown"

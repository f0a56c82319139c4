"""Rows as the model sees them, token by token, for a person to look at before training.

    prompt, retained    plain         def│ digest│(
    learned             {+...+}       {+sha│256+}
    unlearned           {-...-}       {-md│5-}

Colours say the same, and the marks say it without them. `│` stands between two tokens, `⏎` and `⇥` for line break and
tab. Learned are the tokens of the fixed side that the buggy side hasn't, unlearned those of the buggy side; what the
objective makes of them is its own affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, cast

from rich.console import Group, RenderableType
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from hotfix.data.encode import Branch, EncodedPair
from hotfix.data.schema import CodePair

__all__ = ["Kind", "Piece", "marked", "pair_view", "pieces", "text_view"]

Kind = Literal["prompt", "retained", "learned", "unlearned"]
_STYLES: dict[Kind, str] = {
    "prompt": "blue",
    "retained": "default",
    "learned": "bold green",
    "unlearned": "bold red",
}
_MARKS: dict[Kind, tuple[str, str]] = {"learned": ("{+", "+}"), "unlearned": ("{-", "-}")}
_VISIBLE = str.maketrans({"\n": "⏎\n", "\t": "⇥\t", "\r": "␍"})
_CONTEXT = 60


class Piece(NamedTuple):
    """The text of a token, or of those few that only together are whole characters, and what is done with it."""

    text: str
    kind: Kind


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], kinds: Sequence[Kind] | None = None) -> list[Piece]:
    """Return tokens as text; the bytes of one character stay together, as they can't be shown apart.

    Args:
        tokenizer: of the ids.
        ids: [T].
        kinds: of each [T]; all are retained if not given.
    """
    return [Piece(text, kinds[start] if kinds else "retained") for start, text in _whole_texts(tokenizer, ids)]


def marked(found: Sequence[Piece]) -> str:
    r"""Return the pieces in one line of marks, without colours.

    >>> marked([Piece("x", "prompt"), Piece(" =", "prompt"), Piece(" 2", "learned"), Piece("\n", "retained")])
    'x│ ={+ 2+}⏎\n'
    """
    return _text(found).plain


def pair_view(pair: CodePair, encoded: EncodedPair, tokenizer: PreTrainedTokenizerBase) -> RenderableType:
    """Return a pair, its end of the prompt first, then what either side goes on with."""
    counts = f"{len(encoded.shared)} shared ({encoded.prompt} prompt), {len(encoded.fixed.ids)} fixed, "
    title = Text.assemble((pair.id, "bold"), f"  {pair.rule}  {pair.source}".rstrip(), "\n", (counts, "dim"))
    title.append(f"{len(encoded.buggy.ids)} buggy tokens", "dim")
    kinds: list[Kind] = ["prompt" if t < encoded.prompt else "retained" for t in range(len(encoded.shared))]
    left_out = max(0, len(encoded.shared) - _CONTEXT)
    front = _text(pieces(tokenizer, encoded.shared[left_out:], kinds[left_out:]))
    if left_out:
        front = Text.assemble((f"... {left_out} tokens ...\n", "dim"), front)
    return Group(
        title,
        _block("prompt", front),
        _block("fixed", _text(_branch(tokenizer, encoded.fixed, "learned"))),
        _block("buggy", _text(_branch(tokenizer, encoded.buggy, "unlearned"))),
    )


def text_view(name: str, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> RenderableType:
    """Return a retain text: every token of it is retained."""
    title = Text.assemble((name, "bold"), "\n", (f"{len(ids)} tokens", "dim"))
    return Group(title, _block("retain", _text(pieces(tokenizer, ids[:_CONTEXT]))))


def _branch(tokenizer: PreTrainedTokenizerBase, branch: Branch, kind: Kind) -> list[Piece]:
    kinds: list[Kind] = [kind if edited else "retained" for edited in branch.edited]
    return pieces(tokenizer, branch.ids, kinds)


def _block(name: str, text: Text) -> Text:
    """A name, and the text below it, indented without being broken at the console's width."""
    lines = text.split("\n", allow_blank=True)
    return Text("\n").join([Text(f"  {name}", "dim"), *(Text("    ").append_text(line) for line in lines)])


def _text(found: Sequence[Piece]) -> Text:
    """Pieces with bars between them; neighbours of one kind share their marks."""
    text = Text()
    for place, piece in enumerate(found):
        before = found[place - 1].kind if place else None
        opening, closing = _MARKS.get(piece.kind, ("", ""))
        if before != piece.kind:
            text.append(opening, _STYLES[piece.kind])
            bar = not opening and before is not None and before not in _MARKS
        else:
            bar = True
        if bar:
            text.append("│", "dim")
        text.append(piece.text.translate(_VISIBLE), _STYLES[piece.kind])
        if place + 1 == len(found) or found[place + 1].kind != piece.kind:
            text.append(closing, _STYLES[piece.kind])
    return text


def _whole_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> Iterator[tuple[int, str]]:
    """First token and text of each shortest run of tokens that is whole characters."""
    start = 0
    for stop in range(1, len(ids) + 1):
        text = cast("str", tokenizer.decode(list(ids[start:stop]), clean_up_tokenization_spaces=False))
        # A character has four bytes at most; what isn't whole after four tokens never will be.
        if "\ufffd" not in text or stop - start >= 4 or stop == len(ids):
            yield start, text
            start = stop

"""Edits as the model sees them, token by token, for a person to look at before anything is edited."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from hotfix.data.edits import EditRequest, encode_request
from hotfix.data.preview import marked, pieces

__all__ = ["request_view"]


def request_view(request: EditRequest, tokenizer: PreTrainedTokenizerBase) -> RenderableType:
    """Return an edit: its prompt and target as tokens, then its paraphrases and neighbours as text.

    Raises:
        DataError: the target is empty.
    """
    encoded = encode_request(tokenizer, request)
    title = Text.assemble((request.id, "bold"), f"  {request.group}  {request.source}".rstrip(), "\n")
    title.append(f"{len(encoded.prompt)} tokens of prompt, {len(encoded.target)} of target", "dim")
    if "paraphrase" in request.meta:
        title.append(f"; paraphrases by {request.meta['paraphrase']}", "dim")
    return Group(
        title,
        _block("prompt", [marked(pieces(tokenizer, encoded.prompt))]),
        _block("target", [marked(pieces(tokenizer, encoded.target, ["learned"] * len(encoded.target)))]),
        *([_block("paraphrases", request.paraphrases)] if request.paraphrases else []),
        *([_block("neighbours", request.neighbours)] if request.neighbours else []),
    )


def _block(name: str, texts: list[str] | tuple[str, ...]) -> Text:
    """A name, and each text below it, the lines behind its first further in."""
    lines = [f"{'      ' if n else '    '}{line}" for text in texts for n, line in enumerate(text.split("\n"))]
    return Text("\n").join([Text(f"  {name}", "dim"), *map(Text, lines)])

"""Where a pair's prompt ends: at its statement, or at the first token in which its two sides differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.encode import EncodedPair, PairEncoder, encode_text
from hotfix.data.schema import CodePair
from hotfix.tasks.verdict import statements

__all__ = ["PAPER_LINES", "PairPrompt", "PromptEnd", "StatementsEnd", "pair_prompt", "paper_prompt"]

PromptEnd = Literal["statement", "edit"]
PAPER_LINES = 30
# The paper's prompts are never cut; the model's context cuts them where it must, and says so.
_UNCUT = 10**9


class PairPrompt(NamedTuple):
    """What the model is given of a pair.

    Attributes:
        ids: the prompt [T].
        begun: the last of them, which stand behind the prompt at the statement: what both sides begin with. Put in
            front of what the model writes, they make it a completion at the statement again.
        residue: the end of the prefix that such a completion starts with; see `EncodedPair`.
    """

    ids: list[int]
    begun: list[int]
    residue: str


def pair_prompt(encoded: EncodedPair, at: PromptEnd) -> PairPrompt:
    """Return the prompt as training shows it.

    >>> from hotfix.data.encode import Branch
    >>> pair = EncodedPair("x", [5, 6, 7], 2, " ", Branch([8], [True], 1), Branch([9], [True], 1))
    >>> pair_prompt(pair, "statement").ids, pair_prompt(pair, "edit")[:2]
    ([5, 6], ([5, 6, 7], [7]))
    """
    end = len(encoded.shared) if at == "edit" else encoded.prompt
    return PairPrompt(encoded.shared[:end], encoded.shared[encoded.prompt : end], encoded.residue)


def paper_prompt(pair: CodePair, data: HotfixDataModule, at: PromptEnd) -> PairPrompt:
    """Return the prompt of the paper's published code: the last 30 lines of the prefix, tokenised on their own, uncut.

    The published code has no prompt at the edit point; there it is these lines and what both sides begin with.
    """
    short = replace(pair, prefix="\n".join(pair.prefix.split("\n")[-PAPER_LINES:]))
    if at == "statement":
        return PairPrompt(encode_text(data.tokenizer, short.prefix).ids, [], "")
    encoder = PairEncoder(data.tokenizer, max_length=_UNCUT, suffix_tokens=data.suffix_tokens)
    return pair_prompt(encoder(short), at)


class StatementsEnd:
    r"""Stops once this many statements are complete; one in brackets may take several lines.

    Args:
        count: of statements.
        depth: brackets that the prompt leaves open in the first of them.

    >>> StatementsEnd(1)("a,\n"), StatementsEnd(1, depth=1)("a,\n"), StatementsEnd(1, depth=1)("a,\nb)\n")
    (True, False, True)
    """

    triggers = "\n"

    def __init__(self, count: int, depth: int = 0) -> None:
        self.count = max(1, count)
        self.depth = depth

    def __call__(self, text: str) -> bool:
        """Whether they are complete."""
        # What follows a complete statement is the next one; it would be joined to an open one.
        whole = "(" * self.depth + text[: text.rfind("\n") + 1] + "x"
        return len(statements(whole, self.count + 1)) > self.count

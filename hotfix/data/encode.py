"""Code pairs to token ids, with what the two sides share, where they differ and where a prompt ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, cast

from transformers import PreTrainedTokenizerBase

from hotfix.data.diff import Edits, common_prefix_length, diff_text, edited_tokens
from hotfix.data.prompts import Frame, Plain, PromptFormat
from hotfix.data.schema import CodePair
from hotfix.errors import DataError, ModelError

__all__ = [
    "Branch",
    "EncodedPair",
    "EncodedText",
    "Overlong",
    "OverlongError",
    "PairEncoder",
    "encode_text",
    "statement_ids",
]

Overlong = Literal["error", "left", "drop"]


class OverlongError(DataError):
    """A pair that doesn't fit the context, whatever may be cut."""


class EncodedText(NamedTuple):
    """Token ids [T] and the (start, end) characters of each [T]."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Branch(NamedTuple):
    """One side behind the beginning that both share.

    Attributes:
        ids: token ids [S].
        edited: whether each differs from the other side [S].
        statement: how many of them belong to the statement; at least one, the token at which the sides part.
    """

    ids: list[int]
    edited: list[bool]
    statement: int


class EncodedPair(NamedTuple):
    """A pair as tokens.

    Attributes:
        id: the pair's id.
        shared: ids that both sides begin with; the edit point is behind them.
        prompt: how many of `shared` are the prompt, that is, come from the prefix alone.
        residue: the end of the prefix that isn't in the prompt, because its characters share a token with the
            statement's (mostly indentation); a completion starts with it.
        fixed: the fixed side behind `shared`.
        buggy: the buggy side behind `shared`.
    """

    id: str
    shared: list[int]
    prompt: int
    residue: str
    fixed: Branch
    buggy: Branch

    @property
    def packed_length(self) -> int:
        """Tokens of the row that holds the shared beginning once and both branches."""
        return len(self.shared) + len(self.fixed.ids) + len(self.buggy.ids)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, add_special_tokens: bool = True) -> EncodedText:
    """Tokenise; never empty: an empty text is the beginning-of-sequence token."""
    if not tokenizer.is_fast:
        raise ModelError(
            f"tokenizer {type(tokenizer).__name__} gives no character offsets; hotfix needs a fast tokenizer "
            "(a tokenizer.json beside the model)"
        )
    encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=add_special_tokens)
    ids = list(encoding["input_ids"])
    offsets: list[tuple[int, int]] = []
    for start, end in encoding["offset_mapping"]:
        # Some tokenizers leave a token's leading space out of its span; tokens tile the text, so the gap is theirs.
        offsets.append((min(start, offsets[-1][1]) if offsets else start, end))
    if not ids:
        ids, offsets = [_start_id(tokenizer)], [(0, 0)]
    return EncodedText(ids, offsets)


class PairEncoder:
    """Encodes pairs for one tokenizer.

    Args:
        tokenizer: a fast tokenizer.
        max_length: longest side in tokens.
        suffix_tokens: how many tokens of the suffix (a line break where there is none) stay behind the statement, at
            least 1; where one side is the beginning of the other, they tell the two apart.
        overlong: what to do with a pair whose prefix and statement exceed `max_length`: refuse it, or cut the prefix
            on the left (`drop` as well: who asks for pairs leaves out those that still don't fit).
        prompt: how a pair is put before the model; plain if not given.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 1024,
        suffix_tokens: int = 2,
        overlong: Overlong = "error",
        prompt: PromptFormat | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.suffix_tokens = suffix_tokens
        self.overlong = overlong
        self.prompt = prompt or Plain()

    def __call__(self, pair: CodePair) -> EncodedPair:
        """Encode one pair.

        Raises:
            DataError: it is too long, or its sides are the same tokens.
        """
        frame = self.prompt.frame(pair, self.tokenizer)
        front = frame.head + frame.prefix
        prefix = encode_text(self.tokenizer, front, frame.add_special_tokens).ids
        fixed, fixed_end = self._side(frame, pair.fixed)
        buggy, buggy_end = self._side(frame, pair.buggy)
        over = max(fixed_end, buggy_end) + self.suffix_tokens - self.max_length
        if frame.head and over > 0 and self.overlong != "error" and pair.prefix:
            return self(self._without_beginning(pair, over))
        if not common_prefix_length(prefix, fixed.ids, buggy.ids):
            # Nothing to predict the first token from, so all three get a start.
            start_id = _start_id(self.tokenizer)
            prefix = [start_id, *prefix]
            fixed, buggy = (EncodedText([start_id, *e.ids], [(0, 0), *e.offsets]) for e in (fixed, buggy))
            fixed_end, buggy_end = fixed_end + 1, buggy_end + 1
        # A side that is the beginning of the other parts from it at its own end: the token that follows decides.
        shared = common_prefix_length(fixed.ids, buggy.ids)
        if shared in (len(fixed.ids), len(buggy.ids)):
            raise DataError(
                f"pair {pair.id!r}: this tokenizer makes the same tokens of both sides",
                pair.source,
                hint="remove the row, or raise data.init_args.suffix_tokens",
            )
        prompt = min(common_prefix_length(prefix, fixed.ids, buggy.ids), shared)
        edits = pair.edits or Edits.of(diff_text(pair.buggy, pair.fixed))
        at = len(front)
        fixed_marks = edited_tokens([(at + a, at + b) for a, b in edits.fixed], fixed.offsets, shared)
        buggy_marks = edited_tokens([(at + a, at + b) for a, b in edits.buggy], buggy.offsets, shared)
        cut = self._cut(pair, max(fixed_end, buggy_end), prompt, keep_head=bool(frame.head))
        # The suffix gives way before the statement does, but never the token at which the sides part.
        stop = max(self.max_length + cut, shared + 1)
        return EncodedPair(
            id=pair.id,
            shared=fixed.ids[cut:shared],
            prompt=prompt - cut,
            residue=front[fixed.offsets[prompt - 1][1] :] if prompt else front,
            fixed=Branch(fixed.ids[shared:stop], fixed_marks[shared:stop], max(1, fixed_end - shared)),
            buggy=Branch(buggy.ids[shared:stop], buggy_marks[shared:stop], max(1, buggy_end - shared)),
        )

    def _without_beginning(self, pair: CodePair, over: int) -> CodePair:
        """Take tokens off the prefix; half of those that are too many, since the format may show it more than once."""
        offsets = encode_text(self.tokenizer, pair.prefix, add_special_tokens=False).offsets
        cut = min(max(1, over // 2), len(offsets))
        return replace(pair, prefix=pair.prefix[offsets[cut - 1][1] :])

    def _side(self, frame: Frame, statement: str) -> tuple[EncodedText, int]:
        """Encode a side; also the number of its tokens that begin before the statement's end."""
        text = frame.head + frame.prefix + statement
        encoded = encode_text(self.tokenizer, text + frame.tail, frame.add_special_tokens)
        stop = len(text)
        end = sum(start < stop for start, _ in encoded.offsets)
        keep = end + self.suffix_tokens
        return EncodedText(encoded.ids[:keep], encoded.offsets[:keep]), end

    def _cut(self, pair: CodePair, length: int, prompt: int, keep_head: bool) -> int:
        """How many tokens to take off the left so that `length` tokens and the suffix fit."""
        over = length + self.suffix_tokens - self.max_length
        if length <= self.max_length:
            return 0 if self.overlong == "error" or keep_head else max(0, min(over, prompt - 1))
        if self.overlong == "error" or keep_head or over >= prompt:
            raise OverlongError(
                f"pair {pair.id!r} has {length} tokens ({prompt} of them prefix), longer than the context of "
                f"{self.max_length}",
                pair.source,
                hint="shorten the prefix, raise data.init_args.max_length, or set data.init_args.overlong to left",
            )
        return over


def _start_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that a text starts with where nothing is before it."""
    return cast("int", tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id)


def statement_ids(encoded: EncodedPair, side: Literal["fixed", "buggy"]) -> Sequence[int]:
    """Return the ids of a side's statement behind the prompt."""
    branch = encoded.fixed if side == "fixed" else encoded.buggy
    return encoded.shared[encoded.prompt :] + branch.ids[: branch.statement]

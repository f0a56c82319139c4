"""How a pair is put before the model: as plain text, as a gap to fill, or as an answer in a chat.

Whatever the format, a pair is text in front of the place, the statement, and text behind it; so the two sides still
share their beginning, and what differs between them is found as ever. Special tokens are written as text, the way their
users write them, and the tokenizer makes one token of each.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from hotfix.data.schema import CodePair
from hotfix.errors import ConfigError, DataError, ModelError

__all__ = [
    "FAMILIES",
    "Chat",
    "FillInTheMiddle",
    "FimFamily",
    "Frame",
    "Plain",
    "PromptFormat",
    "fim_family",
    "middle_end_ids",
]


class Frame(NamedTuple):
    """A pair's surroundings as text.

    Attributes:
        head: what stands before the code: special tokens, an instruction; never cut.
        prefix: the code in front of the place, as far as the statement follows it at once.
        tail: what follows the statement.
        add_special_tokens: whether the tokenizer still has to add its own beginning of a text.
    """

    head: str
    prefix: str
    tail: str
    add_special_tokens: bool = True


class FimFamily(NamedTuple):
    """How a family of models fills in the middle.

    Attributes:
        name: of the family, for messages.
        psm: template with the prefix first.
        spm: template with the suffix first, the statement right behind the prefix; None where it was not trained on.
        end: the token by which the model says that the gap is full; None for the tokenizer's end of text.
    """

    name: str
    psm: str | None
    spm: str | None
    end: str | None = None

    @property
    def marks(self) -> list[str]:
        """The special tokens of the templates."""
        found = [re.sub(r"\{prefix\}|\{suffix\}", "\0", template) for template in (self.psm, self.spm) if template]
        parts = [part for template in found for part in template.split("\0")]
        marks = [mark for part in parts for mark in re.findall(r"▁?<[^<>]+>|\[[A-Z]+\]", part)]
        return list(dict.fromkeys(marks + ([self.end] if self.end else [])))


# From the model cards and the code published with them; the first whose tokens a tokenizer has is taken.
FAMILIES: tuple[FimFamily, ...] = (
    FimFamily(
        "StarCoder, StarCoder2, Granite Code",
        "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>",
        "<fim_prefix><fim_suffix>{suffix}<fim_middle>{prefix}",
    ),
    FimFamily(
        "SantaCoder",
        "<fim-prefix>{prefix}<fim-suffix>{suffix}<fim-middle>",
        "<fim-prefix><fim-suffix>{suffix}<fim-middle>{prefix}",
    ),
    FimFamily("Qwen2.5-Coder", "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>", None, "<|endoftext|>"),
    FimFamily("CodeGemma", "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>", None, "<|file_separator|>"),
    FimFamily(
        "CodeLlama",
        "▁<PRE>{prefix}▁<SUF>{suffix}▁<MID>",
        "▁<PRE>▁<SUF>{suffix}▁<MID>{prefix}",
        "▁<EOT>",
    ),
    # These bars are full-width and the underscores are blocks: so the model's makers have spelt them.
    FimFamily(
        "DeepSeek-Coder",
        "<\uff5cfim\u2581begin\uff5c>{prefix}<\uff5cfim\u2581hole\uff5c>{suffix}<\uff5cfim\u2581end\uff5c>",
        None,
    ),
    FimFamily("Codestral", None, "[SUFFIX]{suffix}[PREFIX]{prefix}"),
    FimFamily("CodeGen2", "{prefix}<mask_1>{suffix}<|endoftext|><sep><mask_1>", None, "<eom>"),
)


def fim_family(tokenizer: PreTrainedTokenizerBase) -> FimFamily | None:
    """Return the family whose special tokens a tokenizer has; None where it has none."""
    known = tokenizer.get_added_vocab()
    return next((family for family in FAMILIES if all(mark in known for mark in family.marks)), None)


def middle_end_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids of the token by which the model ends a filled gap, beside its end of text."""
    family = fim_family(tokenizer) if getattr(tokenizer, "is_fast", False) else None
    if family is None or family.end is None:
        return frozenset()
    return frozenset({cast("int", tokenizer.convert_tokens_to_ids(family.end))})


class PromptFormat(ABC):
    """Puts a pair's surroundings into words. Its constructor's arguments are its settings."""

    @abstractmethod
    def frame(self, pair: CodePair, tokenizer: PreTrainedTokenizerBase) -> Frame:
        """Return what stands around the statement of either side.

        Raises:
            ModelError: the tokenizer has not what the format needs.
            DataError: the code holds the format's own special tokens.
        """


class Plain(PromptFormat):
    """The prefix, as code is completed in an editor that shows the model nothing else."""

    def frame(self, pair: CodePair, tokenizer: PreTrainedTokenizerBase) -> Frame:
        """Return prefix and suffix as they are; a line break stands for a missing suffix."""
        return Frame("", pair.prefix, pair.suffix or "\n")


class FillInTheMiddle(PromptFormat):
    """Prefix and suffix around a gap, with the special tokens that the model was trained with (Bavarian et al. 2022).

    The tokens are found in the tokenizer; https://arxiv.org/abs/2207.14255 explains the two orders.

    Args:
        order: `psm`, prefix first, the statement in a token sequence of its own; `spm`, suffix first, the statement
            goes on from the prefix. Not every family was trained on both.
        suffix_lines: at most this many lines of the suffix are shown; null for all.
    """

    def __init__(self, order: Literal["psm", "spm"] = "psm", suffix_lines: int | None = 20) -> None:
        if suffix_lines is not None and suffix_lines < 0:
            raise ConfigError(f"data.init_args.prompt.init_args.suffix_lines is {suffix_lines}, expected at least 0")
        self.order = order
        self.suffix_lines = suffix_lines

    def frame(self, pair: CodePair, tokenizer: PreTrainedTokenizerBase) -> Frame:
        """Return the template of the tokenizer's family, filled in."""
        family = fim_family(tokenizer)
        if family is None:
            names = "; ".join(family.name for family in FAMILIES)
            raise ModelError(
                f"this tokenizer ({type(tokenizer).__name__}, {len(tokenizer)} tokens) has no special tokens to fill "
                f"in the middle with; known are those of {names}. Leave data.init_args.prompt out, or take such a model"
            )
        template = family.psm if self.order == "psm" else family.spm
        if template is None:
            other = "spm" if self.order == "psm" else "psm"
            raise ConfigError(
                f"data.init_args.prompt.init_args.order is {self.order}, but {family.name} was trained on {other} only"
            )
        _refuse_marks(pair, family.marks)
        suffix = "".join(pair.suffix.splitlines(keepends=True)[: self.suffix_lines])
        end = family.end or cast("str", tokenizer.eos_token)
        if self.order == "spm":
            return Frame(template.removesuffix("{prefix}").format(suffix=suffix), pair.prefix, end)
        return Frame(template.format(prefix=pair.prefix, suffix=suffix), "", end)


class Chat(PromptFormat):
    """A user asks for the code, and the assistant's answer already begins with the prefix.

    Args:
        instruction: what the user says; `{prefix}` and `{suffix}` are the code around the place.
        opening: what the assistant says before the prefix.
        system: what the system says; null leaves it to the template.
    """

    def __init__(
        self,
        instruction: str = "Complete this code. Answer with the whole code.\n\n```\n{prefix}\n```",
        opening: str = "```\n",
        system: str | None = None,
    ) -> None:
        self.instruction = instruction
        self.opening = opening
        self.system = system

    def frame(self, pair: CodePair, tokenizer: PreTrainedTokenizerBase) -> Frame:
        """Return the tokenizer's own chat template, filled in."""
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError(
                f"this tokenizer ({type(tokenizer).__name__}, {len(tokenizer)} tokens) has no chat template; leave "
                "data.init_args.prompt out, or take a model that was tuned to chat"
            )
        own = self._head(CodePair("", "", "", ""), tokenizer)
        _refuse_marks(pair, [mark for mark in tokenizer.get_added_vocab() if mark.strip() and mark in own])
        return Frame(self._head(pair, tokenizer), pair.prefix, pair.suffix or "\n", add_special_tokens=False)

    def _head(self, pair: CodePair, tokenizer: PreTrainedTokenizerBase) -> str:
        # In one go: the code may hold the fields' names itself.
        text = re.sub(r"\{(prefix|suffix)\}", lambda named: str(getattr(pair, named[1])), self.instruction)
        turns = [{"role": "system", "content": self.system}] if self.system is not None else []
        turns.append({"role": "user", "content": text})
        try:
            head = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise ModelError(
                f"the model's chat template refuses the conversation ({error}); leave out data.init_args.prompt's "
                "`system`, or the prompt format"
            ) from error
        return cast("str", head) + self.opening


def _refuse_marks(pair: CodePair, marks: Sequence[str]) -> None:
    """Code that holds special tokens would end its own part of the prompt."""
    texts = (pair.prefix, pair.buggy, pair.fixed, pair.suffix)
    found = next((mark for mark in marks if any(mark in text for text in texts)), None)
    if found is not None:
        raise DataError(
            f"pair {pair.id!r} holds {found!r}, which is a special token of this tokenizer",
            pair.source or None,
            hint="remove the row, or leave data.init_args.prompt out",
        )

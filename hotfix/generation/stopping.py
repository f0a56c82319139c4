"""When a completion ends: at an end-of-sequence token, at a text, or at its greatest length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from hotfix.errors import ConfigError

__all__ = ["Completion", "Ending", "StopAfterLines", "StopCriterion", "StopStrings"]

# A token that is only a part of a character decodes to this, so it may be a part of any trigger.
REPLACEMENT_CHARACTER = "\N{REPLACEMENT CHARACTER}"


class Completion(NamedTuple):
    """What a model wrote after a prompt.

    Attributes:
        token_ids: the tokens, up to and including the one whose text met the stop criterion, without the
            end-of-sequence token.
        log_prob: natural log of the probability that the model gives to ``token_ids``, summed over them, at temperature
            1 and without ``top_k`` or ``top_p``.
        finished: whether it ended by itself rather than at ``max_new_tokens``.
    """

    token_ids: list[int]
    log_prob: float
    finished: bool


class StopCriterion(Protocol):
    """Says whether a completion is complete, from its text so far.

    Decoding a text costs more than looking at a token, so the criterion names the characters that can complete it.
    """

    @property
    def triggers(self) -> str:
        """Characters of which the newest token has at least one when the criterion is asked; "" asks at every token."""
        ...

    def __call__(self, text: str) -> bool:
        """Whether the completion ``text`` is complete."""
        ...


@dataclass(frozen=True)
class StopStrings:
    r"""Stops at the first of some strings.

    Args:
        strings: what ends a completion, for example ``["\ndef", "\nclass"]``.

    >>> stop = StopStrings(("\ndef", "\n#"))
    >>> stop.triggers, stop("    return x\n"), stop("    return x\ndef g")
    ('#f', False, True)
    >>> stop.cut("    return x\n# end\ndef g")
    '    return x'
    """

    strings: Sequence[str]

    def __post_init__(self) -> None:
        if isinstance(self.strings, str) or not self.strings or not all(self.strings):
            raise ConfigError(f"strings must be a list of non-empty strings, not {self.strings!r}")

    @property
    def triggers(self) -> str:
        """The last characters, since a string is complete when its last character is there."""
        return "".join(sorted({string[-1] for string in self.strings}))

    def __call__(self, text: str) -> bool:
        """Whether one of the strings is in ``text``."""
        return any(string in text for string in self.strings)

    def cut(self, text: str) -> str:
        """Returns ``text`` up to the first of the strings, or all of it."""
        return text[: min((place for s in self.strings if (place := text.find(s)) >= 0), default=len(text))]


@dataclass(frozen=True)
class StopAfterLines:
    r"""Stops once some lines that are not blank have been written to their end.

    Args:
        lines: how many, at least 1.

    >>> stop = StopAfterLines(1)
    >>> stop("\n"), stop("\nx = 1"), stop("\nx = 1\n")
    (False, False, True)
    """

    lines: int = 1

    def __post_init__(self) -> None:
        if self.lines < 1:
            raise ConfigError(f"lines must be at least 1, not {self.lines}")

    @property
    def triggers(self) -> str:
        """The newline."""
        return "\n"

    def __call__(self, text: str) -> bool:
        """Whether ``text`` has that many complete lines that are not blank."""
        return sum(bool(line.strip()) for line in text.split("\n")[:-1]) >= self.lines


class Ending:
    """Applies a stop criterion to token ids, decoding only when the newest token can have met it.

    Args:
        decode: text of some token ids.
        eos_ids: tokens that end a completion.
        stop: the criterion, if any.
    """

    def __init__(self, decode: Callable[[list[int]], str], eos_ids: frozenset[int], stop: StopCriterion | None) -> None:
        self.decode, self.eos_ids, self.stop = decode, eos_ids, stop
        self._asks: dict[int, bool] = {}

    def met(self, token_ids: list[int]) -> bool:
        """Whether the criterion is met by a completion that it was not met by one token ago."""
        return self.stop is not None and self._ask(token_ids[-1]) and self.stop(self.decode(token_ids))

    def _ask(self, token_id: int) -> bool:
        if token_id not in self._asks:
            triggers = set(self.stop.triggers) if self.stop is not None else set()
            # Twice, because some tokenizers strip the space before the first token of a text.
            text = self.decode([token_id, token_id])
            self._asks[token_id] = not triggers or not triggers.isdisjoint(text) or REPLACEMENT_CHARACTER in text
        return self._asks[token_id]

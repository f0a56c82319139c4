"""Command-line and YAML errors in one line: the key, what was expected, the nearest valid name."""

from __future__ import annotations

import difflib
import re
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from hotfix.errors import ConfigError

__all__ = ["HotfixParser", "shorten"]

_UNKNOWN_KEY = re.compile(
    r"[Kk]ey[:\s]+['\"]?([\w.]+)['\"]? is not expected|does not accept (?:option|nested key) '([^']+)'"
)
_NO_CLASS = re.compile(r"(?:No module named|has no attribute|Import error.*?|Problem with given class_path) '([\w.]+)'")


class HotfixParser(LightningArgumentParser):
    """Raises `ConfigError` in place of printing the usage and a page of nested complaints."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the shortened message."""
        raise ConfigError(shorten(message, sorted(_known_keys(self)))) from None


def shorten(message: str, known: list[str]) -> str:
    """Keep the part of a parser's message that says what is wrong, and add the nearest name.

    >>> shorten("Key 'model.learning_ratte' is not expected", ["learning_rate", "seed"])
    "Key 'model.learning_ratte' is not expected; did you mean 'learning_rate'?"
    """
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    told = [line for line in lines if not line.startswith(("Given value type", "Subtypes", "Does not validate"))]
    text = "; ".join(dict.fromkeys(told))
    asked = [word for found in _UNKNOWN_KEY.findall(message) for word in found if word]
    for word in asked:
        near = difflib.get_close_matches(word.rsplit(".", 1)[-1], known, n=1, cutoff=0.6)
        if near:
            return f"{text[:600]}; did you mean {near[0]!r}?"
    return text[:900]


def _known_keys(parser: Any) -> set[str]:  # noqa: ANN401  jsonargparse's actions are untyped
    found: set[str] = set()
    for action in parser._actions:
        if action.dest:
            found.add(action.dest.rsplit(".", 1)[-1])
    return found

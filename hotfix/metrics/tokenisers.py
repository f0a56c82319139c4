"""How texts are cut into tokens before they are compared: as code, or as the published benchmarks do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

__all__ = ["TOKENISERS", "Tokens", "alphanumerics", "code_tokens", "mteval_13a"]

Tokens: TypeAlias = Literal["code", "13a", "alphanumeric"]

_CODE: Final = re.compile(r"\w+|[^\w\s]")
_NOT_ALPHANUMERIC: Final = re.compile(r"[^a-z0-9]+")
_ENTITIES: Final = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_13A: Final = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def code_tokens(text: str) -> list[str]:
    """Names and numbers whole, every other sign by itself, case kept, white space left out.

    >>> code_tokens("if a.b != 1_0:")
    ['if', 'a', '.', 'b', '!', '=', '1_0', ':']
    """
    return _CODE.findall(text)


def mteval_13a(text: str) -> list[str]:
    """The rules of NIST's mteval-v13a, made for English: a comma between digits stays where it is.

    >>> mteval_13a("f(1,000) -> x_y, z"), mteval_13a("a.b")
    (['f', '(', '1,000', ')', '-', '>', 'x', '_', 'y', ',', 'z'], ['a', '.', 'b'])
    """
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, letter in _ENTITIES:
        text = text.replace(entity, letter)
    text = f" {text} "
    for pattern, replacement in _13A:
        text = pattern.sub(replacement, text)
    return text.split()


def alphanumerics(text: str) -> list[str]:
    """Lower-case runs of ASCII letters and digits; everything else is white space, operators and brackets included.

    >>> alphanumerics("a == B[x_1]") == alphanumerics("a != b(x 1)")
    True
    """
    return _NOT_ALPHANUMERIC.sub(" ", text.lower()).split()


TOKENISERS: Final[Mapping[Tokens, Callable[[str], list[str]]]] = MappingProxyType(
    {"code": code_tokens, "13a": mteval_13a, "alphanumeric": alphanumerics}
)

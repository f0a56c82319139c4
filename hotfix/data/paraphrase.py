"""The same request in other words, by rule: what can be done where no language model is at hand.

Two kinds of change are combined: another verb or noun that means the same, and another way to ask. Nothing in quotes,
and nothing that looks like code, is touched. Such a paraphrase is weaker evidence of generalisation than a person's,
so whoever uses it marks it (`meta["paraphrase"] == "rule"`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

__all__ = ["paraphrases"]

# Only words that mean the same wherever an instruction begins with them.
_VERBS: dict[str, tuple[str, ...]] = {
    "append": ("add to the end",),
    "calculate": ("compute", "work out"),
    "change": ("alter", "modify"),
    "check": ("test", "find out"),
    "compute": ("calculate", "work out"),
    "convert": ("turn", "transform"),
    "count": ("tell the number of", "determine the number of"),
    "create": ("make", "set up"),
    "delete": ("remove", "get rid of"),
    "display": ("show", "print"),
    "extract": ("pull out", "get"),
    "fetch": ("get", "retrieve"),
    "find": ("look for", "locate"),
    "generate": ("produce", "make"),
    "get": ("obtain", "retrieve"),
    "list": ("enumerate", "show"),
    "locate": ("find", "look for"),
    "merge": ("combine", "join"),
    "obtain": ("get", "retrieve"),
    "print": ("display", "output"),
    "remove": ("delete", "get rid of"),
    "rename": ("change the name of", "give a new name to"),
    "replace": ("substitute",),
    "retrieve": ("get", "fetch"),
    "return": ("give back", "give"),
    "show": ("display", "print"),
    "sort": ("order", "put in order"),
    "split": ("break up", "divide"),
}
_WORDS: dict[str, str] = {
    "all files": "every file",
    "all the files": "every file",
    "biggest": "largest",
    "current directory": "working directory",
    "current folder": "working directory",
    "directories": "folders",
    "directory": "folder",
    "recursively": "in a recursive way",
    "that contain": "containing",
    "that contains": "containing",
    "that end with": "ending with",
    "that start with": "starting with",
    "using": "by means of",
    "whether": "if",
}
# How an instruction is asked for; {} is it, its first letter small.
_FRAMES = (
    "How do I {}?",
    "I need to {}",
    "Please {}",
    "What is the way to {}?",
    "The task is to {}",
    "How can one {}?",
    "We want to {}",
    "Here is what to do: {}",
)
# For what isn't an instruction: "Prints the time", "(BSD) show ...".
_LABELS = (
    "Task: {}",
    "Wanted: {}",
    "Goal: {}",
    "What the code does: {}",
    "Purpose: {}",
    "To do: {}",
    "Aim: {}",
    "Job: {}",
)
_PROTECTED = re.compile(r"\"[^\"]*\"|'[^']*'|`[^`]*`|\S*[/\\$*._=<>{}\[\]()|]\S*")
_VERB = re.compile(r"\s*(?:please\s+)?([A-Za-z]+)\b", re.IGNORECASE)


def paraphrases(intent: str, count: int = 1) -> list[str]:
    """Return `count` other ways to put an instruction, no two alike and none the instruction itself.

    The same instruction always gives the same ones. What does not begin with a verb that is known is only asked for
    in another way.

    Args:
        intent: the instruction.
        count: how many, 8 at most.

    >>> paraphrases('Find all files named "all files"')
    ['Here is what to do: locate every file named "all files"']
    """
    frames = _FRAMES if _instructs(intent) else _LABELS
    found = {_folded(intent): ""}
    for place, body in zip(_dealt(intent, len(frames)), _bodies(intent), strict=False):
        text = frames[place].format(body.rstrip(" .;") if "?" in frames[place] else body)
        found.setdefault(_folded(text), text)
    return [text for text in found.values() if text][:count]


def _instructs(intent: str) -> bool:
    match = _VERB.match(intent)
    return match is not None and (not match[1].endswith("s") or match[1].endswith("ss"))


def _bodies(intent: str) -> Iterator[str]:
    """Yield the instruction with other words, again and again; what can be replaced by several is taken in turn."""
    match = _VERB.match(intent)
    verb, rest = (match[1], intent[match.end() :]) if match else ("", intent)
    others = _VERBS.get(verb.lower(), ())
    turn = _number(intent)
    while True:
        # A name written in capitals (an abbreviation, say) stays.
        own = verb if len(verb) > 1 and verb.isupper() else verb.lower()
        yield (others[turn % len(others)] if others else own) + _reworded(rest)
        turn += 1


def _reworded(text: str) -> str:
    """Replace words outside quotes and code; a longer phrase goes before those that it holds."""
    pattern = re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, _WORDS), key=len, reverse=True))})\b")
    parts, last = [], 0
    for held in _PROTECTED.finditer(text):
        parts += [pattern.sub(lambda m: _WORDS[m[0]], text[last : held.start()]), held[0]]
        last = held.end()
    return "".join([*parts, pattern.sub(lambda m: _WORDS[m[0]], text[last:])])


def _dealt(text: str, count: int) -> list[int]:
    """The numbers below `count`, in an order that only the text decides."""
    first = _number(text) % count
    return [(first + i) % count for i in range(count)]


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _folded(text: str) -> str:
    return " ".join(text.lower().split())

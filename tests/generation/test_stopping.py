from __future__ import annotations

from collections.abc import Sequence

import pytest

from hotfix.errors import ConfigError
from hotfix.generation import StopAfterLines, StopStrings
from hotfix.generation.stopping import Ending


class AnyText:
    triggers = ""

    def __call__(self, text: str) -> bool:
        return len(text) == 3


def join(pieces: dict[int, str]) -> tuple[list[str], Ending]:
    """An ending over tokens with these texts that records what it was asked."""
    asked: list[str] = []

    class Recorder:
        triggers = "\nf"

        def __call__(self, text: str) -> bool:
            asked.append(text)
            return False

    return asked, Ending(lambda ids: "".join(pieces[i] for i in ids).lstrip(" "), frozenset(), Recorder())


def test_asked_at_trigger_characters_and_partial_characters() -> None:
    asked, ending = join({0: "ab", 1: "x\n", 2: "def", 3: "\ufffd"})
    ids: list[int] = []
    for token in (0, 1, 0, 2, 3, 0):
        ids.append(token)
        ending.met(ids)
    assert asked == ["abx\n", "abx\nabdef", "abx\nabdef\ufffd"]


def test_a_space_that_the_tokenizer_strips_at_the_start_still_triggers() -> None:
    ending = Ending(lambda ids: "".join(" b" for _ in ids).lstrip(" "), frozenset(), StopStrings(["b "]))
    assert not ending.met([0])
    assert ending.met([0, 0])


def test_no_triggers_asks_always() -> None:
    ending = Ending(lambda ids: "a" * len(ids), frozenset(), AnyText())
    assert [ending.met([0] * n) for n in (1, 2, 3)] == [False, False, True]


def test_no_criterion_decodes_nothing() -> None:
    def refuse(ids: list[int]) -> str:
        raise AssertionError(ids)

    assert not Ending(refuse, frozenset(), None).met([1])


def test_cut_takes_the_earliest() -> None:
    stop = StopStrings(["\nclass", "\ndef"])
    assert stop.cut("a\ndef b\nclass") == "a"
    assert stop.cut("a\nde") == "a\nde"


@pytest.mark.parametrize("strings", ["\n", [], ["a", ""]])
def test_wrong_strings(strings: Sequence[str]) -> None:
    with pytest.raises(ConfigError, match="strings must be a list of non-empty strings"):
        StopStrings(strings)


def test_wrong_lines() -> None:
    with pytest.raises(ConfigError, match="lines must be at least 1, not 0"):
        StopAfterLines(0)


def test_two_lines() -> None:
    stop = StopAfterLines(2)
    assert [stop(text) for text in ("a\n\n \nb", "a\n\n \nb\n")] == [False, True]

"""Other words for an instruction: always others, always the same ones, and nothing quoted is touched."""

from __future__ import annotations

import pytest

from hotfix.data.paraphrase import paraphrases

INTENTS = [
    "Find all files in the current directory that contain 'find all files'",
    "delete the directory `current directory` recursively",
    "Prints the biggest of a.biggest and b",
    "(GNU specific) Display CPU time",
    "x",
    "Sort list.sort using key=whether",
]


@pytest.mark.parametrize("intent", INTENTS)
def test_they_differ_from_the_instruction_and_each_other_and_repeat(intent: str) -> None:
    found = paraphrases(intent, 8)
    assert len(found) == 8
    assert len({" ".join(text.lower().split()) for text in [intent, *found]}) == 9
    assert paraphrases(intent, 8) == found
    assert paraphrases(intent, 3) == found[:3]


@pytest.mark.parametrize(
    ("intent", "kept"),
    [
        (INTENTS[0], "'find all files'"),
        (INTENTS[1], "`current directory`"),
        (INTENTS[2], "a.biggest"),
        (INTENTS[5], "list.sort"),
        (INTENTS[5], "key=whether"),
        ('Remove "all the files" from /current directory/x', '"all the files"'),
    ],
)
def test_quotes_and_code_stay(intent: str, kept: str) -> None:
    assert all(kept in text for text in paraphrases(intent, 8))


def test_words_that_mean_the_same_are_exchanged() -> None:
    found = " ".join(paraphrases("Delete the biggest file in the current directory", 8))
    assert "largest file in the working directory" in found
    assert "remove the" in found
    assert "get rid of the" in found
    assert "delete" not in found.lower()


def test_what_is_no_instruction_is_not_asked_for() -> None:
    for intent in ("Prints the time", "(BSD) show it"):
        assert all(text.endswith(intent[1:]) and ": " in text for text in paraphrases(intent, 8)), intent


def test_a_name_in_capitals_keeps_them() -> None:
    assert all("SIGTERM the process" in text for text in paraphrases("SIGTERM the process", 8))


def test_none_are_made_where_none_are_wanted() -> None:
    assert paraphrases("Find it", 0) == []

"""Pieces of a target together are the target, token for token, and each stands behind all before it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from hotfix.data import EditFiles
from hotfix.data.edit_parts import parted
from hotfix.data.edits import EditRequest, encode_request
from hotfix.errors import ConfigError

REQUEST = EditRequest("1", "Intent: go\nCode:", " find . -name '*.py'", ("Intent: walk\nCode:",), ("n",), ending="\n")


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_pieces_are_the_target(size: int, any_tok: PreTrainedTokenizerBase) -> None:
    whole = encode_request(any_tok, REQUEST)
    pieces = parted([REQUEST], any_tok, size)
    for piece in pieces:
        at = int(piece.id.rpartition("/")[2])
        assert at % size == 0
        encoded = encode_request(any_tok, piece)
        assert encoded.target == whole.target[at : at + size]
        assert encoded.prompt == [*whole.prompt, *whole.target[:at]]
        written = piece.prompt.removeprefix(REQUEST.prompt)
        assert piece.paraphrases == (REQUEST.paraphrases[0] + written,)
        assert (piece.neighbours, piece.group, piece.ending) == (("n",), "1", "")
    assert len({piece.id for piece in pieces}) == len(pieces)
    # A piece that is a blank, or a part of a letter, is no request; of this target there are few.
    assert len(pieces) > 0.6 * len(whole.target) / size


def test_what_cannot_stand_alone_is_left_out_and_told(
    tiny_tok: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        pieces = parted([EditRequest("1", "a =", "x  é")], tiny_tok, 1)
    assert "pieces left out" in caplog.text
    assert pieces[0].target == "x"
    assert all(piece.target.strip() for piece in pieces)


def test_edit_files_part_their_targets(tmp_path: Path) -> None:
    file = tmp_path / "edits.jsonl"
    file.write_text('{"prompt": "a =", "target": "bcd"}\n', encoding="utf-8")
    data = EditFiles(test=str(file), tokenizer_name="tiny", target_tokens=1)
    assert [(r.prompt, r.target) for r in data.requests("test")] == [("a =", "b"), ("a =b", "c"), ("a =bc", "d")]
    with pytest.raises(ConfigError, match="target_tokens is 0, expected at least 1"):
        EditFiles(test=str(file), tokenizer_name="tiny", target_tokens=0)

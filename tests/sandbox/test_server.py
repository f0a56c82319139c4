"""Who decides: the judge's table, and cleaning between programs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from hotfix.sandbox.limits import Limits
from hotfix.sandbox.server import Ending, judge, wipe

TOKEN = b"0123456789abcdef"


def exited(code: int) -> int:
    return code << 8


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (Ending(exited(0), 0.1, False, TOKEN, b""), ("passed", "")),
        (Ending(exited(1), 0.1, False, TOKEN, b""), ("failed", "left with exit status 1 before its last statement")),
        (
            Ending(exited(0), 0.1, False, TOKEN + b"x", b""),
            ("failed", "left with exit status 0 before its last statement"),
        ),
        (
            Ending(exited(0), 0.1, False, TOKEN[:-1], b""),
            ("failed", "left with exit status 0 before its last statement"),
        ),
        (Ending(exited(0), 0.1, False, b"", TOKEN), ("failed", "left with exit status 0 before its last statement")),
        (Ending(exited(0), 0.1, True, TOKEN, b""), ("timeout", "wall limit of 20 s")),
        (Ending(int(signal.SIGKILL), 0.1, False, TOKEN, b""), ("killed", "killed by SIGKILL")),
        (Ending(int(signal.SIGKILL), 5.0, False, b"", b""), ("timeout", "CPU limit of 5 s")),
        (Ending(int(signal.SIGXCPU), 5.0, False, b"", b""), ("timeout", "CPU limit of 5 s")),
        (Ending(int(signal.SIGSEGV), 0.1, False, b"", b"a\nb\n"), ("killed", "killed by SIGSEGV b")),
        (Ending(exited(1), 0.1, False, b"FTraceback\nValueError: x\n", b""), ("failed", "ValueError: x")),
        (Ending(exited(1), 0.1, False, b"MMemoryError", b""), ("memory", "MemoryError")),
        (Ending(exited(1), 0.1, False, b"F\xff\xfe", b""), ("failed", "\ufffd\ufffd")),
    ],
)
def test_judge(ending: Ending, expected: tuple[str, str]) -> None:
    assert judge(ending, TOKEN, Limits()) == expected


def test_wipe_empties_without_following_links(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    (inside / "a" / "b").mkdir(parents=True)
    outside.mkdir()
    (outside / "kept").touch()
    (inside / "a" / "b" / "c").touch()
    (inside / "link").symlink_to(outside)
    (inside / "a" / "link").symlink_to(outside)
    os.mkfifo(inside / "pipe")
    (inside / "a" / "b").chmod(0)
    inside.chmod(0)
    assert wipe(str(inside))
    assert list(inside.iterdir()) == []
    assert (outside / "kept").exists()


def test_wipe_says_when_it_could_not(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    assert not wipe(str(folder))

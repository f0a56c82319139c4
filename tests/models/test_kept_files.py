"""Room for what is kept: the longest unused goes first, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from hotfix.models.kept_files import make_room, used


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_longest_unused_are_deleted_until_more_fits(tmp_path: Path) -> None:
    for age, name in enumerate("abcd"):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "notes.txt").write_bytes(bytes(1000))
    make_room(tmp_path, 100, 500)
    assert names(tmp_path) == ["a.safetensors", "b.safetensors", "c.safetensors", "d.safetensors", "notes.txt"]
    used(tmp_path / "d.safetensors")
    make_room(tmp_path, 100, 300)
    assert names(tmp_path) == ["a.safetensors", "d.safetensors", "notes.txt"]
    make_room(tmp_path, 400, 300)
    assert names(tmp_path) == ["notes.txt"]


def test_nothing_to_delete_is_no_mistake(tmp_path: Path) -> None:
    make_room(tmp_path / "none", 10, 5)
    used(tmp_path / "none")

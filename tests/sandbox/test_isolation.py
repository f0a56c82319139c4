"""Levels and command lines; what the levels keep is tested by hostile programs."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest

from hotfix.sandbox.isolation import candidates, command
from hotfix.sandbox.limits import Limits
from hotfix.sandbox.tree import visible_tree


def test_unsandboxed_is_always_last_and_bubblewrap_needs_its_program() -> None:
    for is_root, has_bubblewrap in itertools.product((True, False), repeat=2):
        levels = candidates(is_root, has_bubblewrap)
        assert levels[-1] == "rlimits"
        assert ("bubblewrap" in levels) == has_bubblewrap
        assert "namespaces" in levels
    assert candidates(is_root=False, has_bubblewrap=True)[0] == "bubblewrap"
    assert candidates(is_root=True, has_bubblewrap=True)[0] == "namespaces"


def test_command_carries_limits_and_caller() -> None:
    options = json.loads(command("namespaces", Limits(cpu_s=3), "/somewhere")[-1])
    assert options["limits"]["cpu_s"] == 3
    assert (options["folder"], options["level"], options["parent"]) == ("/somewhere", "namespaces", os.getpid())


def test_bubblewrap_shows_the_tree_read_only() -> None:
    words = command("bubblewrap", Limits(file_mib=2), "/unused")
    assert {"--unshare-all", "--die-with-parent", "--as-pid-1", "--clearenv", "--disable-userns"} <= set(words)
    assert words[words.index("--size") + 1] == str(8 * 1024 * 1024)
    assert "--bind" not in words
    shown = {words[i + 1] for i, word in enumerate(words) if word == "--ro-bind"}
    assert visible_tree().python in shown


@pytest.mark.parametrize("folder", ["/", "/etc", "/home", "/root", "/usr", "/usr/bin", "/var", "/proc", "/sys", "/dev"])
def test_tree_shows_no_more_than_the_interpreter(folder: str) -> None:
    tree = visible_tree()
    assert folder not in [bind.source for bind in tree.binds]
    assert str(Path.home()) not in [bind.source for bind in tree.binds]
    assert all(os.path.exists(bind.source) for bind in tree.binds)

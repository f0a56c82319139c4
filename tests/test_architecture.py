"""Imports go downward only, and the linter that says so can be trusted."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINT = (
    "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(is_debug_mode=False, no_cache=True))"
)


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Lint the package of a folder by that folder's contract; `-c` puts the folder first on the import path."""
    return subprocess.run(
        [sys.executable, "-c", LINT], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "hotfix", tmp_path / "hotfix", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_imports_go_downward() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_planted_upward_import_is_named(copy: Path) -> None:
    errors = copy / "hotfix" / "errors.py"
    errors.write_text(errors.read_text(encoding="utf-8") + "\nfrom hotfix import cli\n", encoding="utf-8")
    done = lint(copy)
    assert done.returncode == 1
    assert "1 broken" in done.stdout
    assert re.search(r"hotfix\.errors -> hotfix\.cli", done.stdout)


def test_a_new_package_needs_a_place(copy: Path) -> None:
    (copy / "hotfix" / "helpers.py").write_text('"""Misplaced."""\n', encoding="utf-8")
    done = lint(copy)
    assert done.returncode == 1
    assert "helpers" in done.stdout + done.stderr


def test_siblings_may_not_see_each_other(copy: Path) -> None:
    nll = copy / "hotfix" / "losses" / "nll.py"
    nll.write_text(nll.read_text(encoding="utf-8") + "\nfrom hotfix.tasks import base\n", encoding="utf-8")
    done = lint(copy)
    assert done.returncode == 1
    assert "hotfix.losses.nll -> hotfix.tasks" in done.stdout

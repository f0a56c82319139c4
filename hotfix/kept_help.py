"""A command's help, kept: making it imports torch and every class that a key may name, which takes seconds.

It is made once and read from the cache until hotfix, what is installed beside it, or the terminal's width changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from hotfix.atomic import atomic_write
from hotfix.errors import StorageError
from hotfix.models.packaged import cache_folder

__all__ = ["HELP_WORDS", "help_of"]

HELP_WORDS = ("-h", "--help")


def help_of(command: str, make: Callable[[], object]) -> str:
    """Return the help of a command.

    Args:
        command: such as `fit`.
        make: prints it, and may then exit as argparse does; called where no help is kept that is still true.
    """
    path = cache_folder() / "help" / f"{_digest(command)}.txt"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            make()
    except SystemExit as ended:
        if ended.code:
            raise
    # Nobody needs a help that can't be kept to fail for it.
    with contextlib.suppress(StorageError):
        atomic_write(path, printed.getvalue())
    return printed.getvalue()


def _digest(command: str) -> str:
    """Of all that the help depends on: sizes and times of our sources, what is installed, the terminal's width."""
    package = Path(__file__).parent
    sources = sorted(package.rglob("*.py"))
    found = [(str(p.relative_to(package)), stat.st_size, stat.st_mtime_ns) for p in sources if (stat := p.stat())]
    installed = os.stat(sysconfig.get_path("purelib")).st_mtime_ns
    about = command, sys.version, str(package), installed, shutil.get_terminal_size().columns, found
    return hashlib.sha256(repr(about).encode()).hexdigest()[:32]

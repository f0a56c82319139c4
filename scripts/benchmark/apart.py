"""Work in processes of their own: what an earlier part of the benchmark took doesn't count, and is free again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

__all__ = ["apart", "printed"]

_PATIENCE = 1_800.0


def apart(script: str, *options: str, **environment: str) -> str:
    """Return the line that a script ends with.

    Args:
        script: its `__file__`.
        options: of its command line.
        environment: set for it.

    Raises:
        SystemExit: it failed; with what it said.
    """
    return printed([sys.executable, script, *options], **environment).splitlines()[-1]


def printed(command: Sequence[str], **environment: str) -> str:
    """Return what a command prints.

    Raises:
        SystemExit: it failed; with what it said.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_PATIENCE, env={**os.environ, **environment}
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout

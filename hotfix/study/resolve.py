"""Says what configuration a command line comes to, in a process of its own.

Every arm is resolved before the first one starts: a wrong key in the last arm shows at once and not after hours. The
command line needs torch, which the study itself does without; so `main` runs in a process of its own, reads lists of
arguments as JSON and answers with YAML or with what is wrong.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from hotfix.errors import ConfigError, HotfixError

__all__ = ["main", "resolve", "resolve_here"]


def resolve(commands: Sequence[Sequence[str]]) -> list[str | HotfixError]:
    """The whole configuration, as YAML, of each command; or why there is none.

    Raises:
        ConfigError: the process that resolves them broke down.
    """
    words = [sys.executable, "-c", "from hotfix.study.resolve import main; main()"]
    done = subprocess.run(words, input=json.dumps(commands), capture_output=True, text=True, check=False)
    # What a user's own class prints on import comes before the answer.
    answer = done.stdout.rpartition("\n")[2]
    if done.returncode or not answer.startswith("["):
        raise ConfigError(f"the arms can't be read: {_last_line(done.stderr) or 'no reason was given'}")
    told: list[dict[str, str]] = json.loads(answer)
    return [one["yaml"] if "yaml" in one else ConfigError(one["error"]) for one in told]


def resolve_here(command: Sequence[str]) -> dict[str, str]:
    """Resolve one command in this process: `{"yaml": ...}` or `{"error": ...}`."""
    from hotfix.cli import main as run

    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run([*command, "--print_config"])
    except HotfixError as error:
        return {"error": str(error)}
    except SystemExit as error:
        if error.code in (0, None):
            return {"yaml": out.getvalue()}
        return {"error": _last_line(err.getvalue()) or f"exit code {error.code}"}
    # A class of the user's may fail in any way while it is imported, and the other arms have to be told of.
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"error": "the command ran in place of printing its configuration"}


def main() -> None:
    """Answer for the lists of arguments on standard input."""
    commands: list[Any] = json.load(sys.stdin)
    sys.argv = ["hotfix"]
    sys.stdout.write("\n" + json.dumps([resolve_here(command) for command in commands]))


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")

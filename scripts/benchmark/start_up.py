"""From the command to its answer: help, and the first optimizer step of the demo with warm caches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import Finding, seconds, timed

__all__ = ["run"]

_HOTFIX = [sys.executable, "-m", "hotfix"]
_PATIENCE = 600.0


def run(repeats: int) -> list[Finding]:
    """Time them against their limits; a first run of each warms what is kept."""
    found = [_help(words, repeats) for words in (["--help"], ["fit", "--help"])]
    _first_step()
    times = [(_first_step(), 15.0) for _ in range(repeats)]
    note = "from the command to the first checkpoint, base measurements and first pass kept"
    return [*found, timed("first step of the demo against 15 s", times, target=1.0, note=note)]


def _help(words: list[str], repeats: int) -> Finding:
    def work() -> None:
        subprocess.run([*_HOTFIX, *words], check=True, stdout=subprocess.DEVNULL)

    work()
    name = f"hotfix {' '.join(words)} against 1 s"
    return timed(name, [(seconds(work), 1.0) for _ in range(repeats)], target=1.0)


def _first_step() -> float:
    """Start the demo, wait for its first checkpoint, and kill it."""
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        options = ["--trainer.default_root_dir", folder, "--checkpoint.every_n_steps", "1"]
        command = [*_HOTFIX, "fit", "--config", "configs/lora.yaml", *options]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=nowhere, stderr=nowhere, start_new_session=True)
        try:
            while not Path(folder, "checkpoints", "last.ckpt").exists():
                if process.poll() is not None or time.perf_counter() - start > _PATIENCE:
                    raise SystemExit(f"start-up: `{' '.join(command)}` made no step")
                time.sleep(0.02)
            return time.perf_counter() - start
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

"""Runs the runs of a study, each as a process of its own, some at a time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Final

from hotfix.study.phases import last_lines
from hotfix.study.plan import Run, prepare

__all__ = ["Ended", "Watcher", "run_all", "visible_devices"]

_POLL_S: Final = 0.2
# A step is finished and its state saved after the first Ctrl-C; measuring stops at once.
_PATIENCE_S: Final = 60.0
_LAST_LINES: Final = 8
_OUTPUT: Final = "output.log"


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        run: which.
        code: exit code of its process.
        seconds: that it took.
        said: its last lines, where it failed.
    """

    run: Run
    code: int
    seconds: float
    said: tuple[str, ...] = ()


class Watcher:
    """Is told what happens; this one does nothing."""

    def started(self, run: Run) -> None:
        """A run's process was started."""

    def tick(self, running: Sequence[Run]) -> None:
        """Some time has passed."""

    def ended(self, ended: Ended) -> None:
        """A run's process has ended."""


@dataclass
class _Live:
    run: Run
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    slot: int
    began: float = field(default_factory=time.monotonic)


def run_all(
    runs: Sequence[Run],
    workers: int,
    watcher: Watcher,
    environment: Mapping[str, str],
    lock: int | None = None,
    program: Sequence[str] = (sys.executable, "-m", "hotfix"),
) -> list[Ended]:
    """Run these, at most `workers` at once, and return how each ended.

    With several workers, each sees one GPU where there are GPUs; its share of the cores where there are none.

    Args:
        runs: in the order in which they start.
        workers: processes at once.
        watcher: is told what happens.
        environment: of the processes.
        lock: file descriptor of a lock that the processes keep, also when this one is killed.
        program: that takes a run's command.

    Raises:
        KeyboardInterrupt: the user stopped it; every process has ended.
    """
    todo, live, ended = list(runs), list[_Live](), list[Ended]()
    devices = visible_devices(environment)
    with _stopping(live):
        while todo or live:
            while todo and len(live) < workers:
                slot = min(set(range(workers)) - {one.slot for one in live})
                own = {**environment, **_share(slot, workers, devices)}
                live.append(_start(todo.pop(0), slot, own, lock, program))
                watcher.started(live[-1].run)
            for one in [one for one in live if one.process.poll() is not None]:
                live.remove(one)
                ended.append(_end(one))
                watcher.ended(ended[-1])
            watcher.tick([one.run for one in live])
            if live:
                time.sleep(_POLL_S)
    return ended


def visible_devices(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that processes may use, as CUDA_VISIBLE_DEVICES names them.

    >>> visible_devices({"CUDA_VISIBLE_DEVICES": "0,2"}), visible_devices({"CUDA_VISIBLE_DEVICES": ""})
    (['0', '2'], [])
    """
    told = environment.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [name.strip() for name in told.split(",") if name.strip() not in ("", "-1")]
    tool = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if tool is None:
        return []
    done = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("GPU ")]
    return [str(i) for i in range(len(lines))] if done.returncode == 0 else []


def _share(slot: int, workers: int, devices: Sequence[str]) -> dict[str, str]:
    """What one of several workers may use of the machine."""
    if workers == 1:
        return {}
    if devices:
        return {"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]}
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // workers))}


def _start(run: Run, slot: int, environment: Mapping[str, str], lock: int | None, program: Sequence[str]) -> _Live:
    words = prepare(run)
    run.folder.mkdir(parents=True, exist_ok=True)
    output = (run.folder / _OUTPUT).open("wb")
    process = subprocess.Popen(
        [*program, *words],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        # Ctrl-C in the terminal comes here only, and is passed on once.
        start_new_session=True,
        pass_fds=() if lock is None else (lock,),
    )
    return _Live(run, process, output, slot)


def _end(one: _Live) -> Ended:
    one.output.close()
    code = one.process.returncode
    said = tuple(last_lines(one.run.folder / _OUTPUT, _LAST_LINES)) if code else ()
    return Ended(one.run, code, time.monotonic() - one.began, said)


@contextmanager
def _stopping(live: list[_Live]) -> Iterator[None]:
    """Leave no process behind, however the block ends; a request to terminate is one to stop."""
    before = _on_terminate(_interrupt)
    try:
        yield
    except BaseException:
        _signal(live, signal.SIGINT)
        with suppress(KeyboardInterrupt):
            _wait(live, _PATIENCE_S)
        _signal(live, signal.SIGKILL)
        _wait(live, _PATIENCE_S)
        raise
    finally:
        for one in live:
            one.output.close()
        _on_terminate(before)


def _on_terminate(handler: object) -> object:
    try:
        return signal.signal(signal.SIGTERM, handler)  # type: ignore[arg-type]
    except ValueError:  # not the main thread, where signals can't be taken over
        return signal.SIG_DFL


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _signal(live: Sequence[_Live], number: signal.Signals) -> None:
    """Send a signal to the processes that still run; the last one to all that they have started."""
    send: Callable[[int, int], None] = os.killpg if number == signal.SIGKILL else os.kill
    for one in live:
        if one.process.poll() is None or number == signal.SIGKILL:
            with suppress(ProcessLookupError):
                send(one.process.pid, number)


def _wait(live: Sequence[_Live], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(one.process.poll() is None for one in live):
        time.sleep(_POLL_S)

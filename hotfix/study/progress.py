"""Shows how far a study is: a line a running arm with its phase, all of it with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hotfix.study.phases import phase_of
from hotfix.study.plan import Run
from hotfix.study.runner import Ended, Watcher

__all__ = ["Progress", "duration", "seconds_left"]

_EVERY_S = 1.0


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(42), duration(90), duration(7300)
    ('42 s', '2 min', '2 h 02 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def seconds_left(known: Sequence[float], elapsed: Sequence[float], waiting: int, workers: int) -> float | None:
    """Time until the last run ends, taking each for as long as the mean of those that ended; None before one has.

    Args:
        known: times of runs that ended.
        elapsed: times so far of those that run.
        waiting: runs that have not started.
        workers: runs at once.

    >>> seconds_left([10.0, 20.0], [5.0], 2, 1), seconds_left([], [5.0], 2, 1)
    (40.0, None)
    """
    if not known:
        return None
    mean = sum(known) / len(known)
    running = [max(0.0, mean - seconds) for seconds in elapsed]
    return max([(sum(running) + waiting * mean) / workers, *running])


class Progress(Watcher):
    """Live lines in a terminal; a line for each run that ended anywhere.

    Args:
        runs: that are to be done.
        workers: runs at once.
        console: to write to.
        known: times of runs that ended earlier, in seconds.
    """

    def __init__(self, runs: Sequence[Run], workers: int, console: Console, known: Sequence[float] = ()) -> None:
        self._waiting, self._total, self._workers = len(runs), len(runs), min(workers, max(1, len(runs)))
        self._console = console
        self._known = [seconds for seconds in known if seconds > 0]
        self._began: dict[tuple[str, int], float] = {}
        self._drawn = 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        """Start to draw."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        if self._live is not None:
            self._live.stop()

    def started(self, run: Run) -> None:
        """Count a run."""
        self._waiting -= 1
        self._began[run.arm, run.seed] = time.monotonic()

    def tick(self, running: Sequence[Run]) -> None:
        """Draw, not more often than once a second: reading the phases isn't free."""
        if self._live is not None and time.monotonic() - self._drawn >= _EVERY_S:
            self._drawn = time.monotonic()
            self._live.update(self._table(running), refresh=True)

    def ended(self, ended: Ended) -> None:
        """Say it."""
        del self._began[ended.run.arm, ended.run.seed]
        if ended.code == 0:
            self._known.append(ended.seconds)
        done = self._total - self._waiting - len(self._began)
        how = "done" if ended.code == 0 else f"FAILED (exit code {ended.code})"
        left = self._left()
        rest = f", about {duration(left)} left" if left and done < self._total else ""
        told = (
            f"{ended.run.arm} seed {ended.run.seed}: {how} in {duration(ended.seconds)} ({done} of {self._total}{rest})"
        )
        self._console.print(told, markup=False, highlight=False, soft_wrap=True)

    def _left(self) -> float | None:
        now = time.monotonic()
        elapsed = [now - began for began in self._began.values()]
        return seconds_left(self._known, elapsed, self._waiting, self._workers)

    def _table(self, running: Sequence[Run]) -> Table:
        table = Table.grid(padding=(0, 2))
        for run in running:
            seconds = time.monotonic() - self._began[run.arm, run.seed]
            phase = phase_of(run.folder, time.time() - seconds)
            bar = ProgressBar(total=1.0, completed=phase.fraction, width=20)
            table.add_row(Text(f"{run.arm} seed {run.seed}"), bar, Text(phase.name), Text(duration(seconds)))
        done = self._total - self._waiting - len(running)
        left = self._left()
        rest = f"about {duration(left)} left" if left is not None else "time left is known after the first run"
        bar = ProgressBar(total=self._total, completed=done, width=20)
        table.add_row(Text("all", style="bold"), bar, Text(f"{done} of {self._total} runs"), Text(rest))
        return table

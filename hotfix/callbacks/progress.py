"""A progress bar for work that isn't training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["task_progress"]


@contextmanager
def task_progress(label: str, total: int, trainer: Trainer) -> Iterator[Callable[[int], None]]:
    """Show a bar on the first process, unless progress bars are switched off; yields what advances it."""
    bar = trainer.progress_bar_callback
    if not trainer.is_global_zero or bar is None:
        yield lambda done: None
        return
    if isinstance(bar, RichProgressBar):
        # Two live displays can't share a terminal; training's is rebuilt when training goes on.
        bar._stop_progress()
    columns = (TextColumn("{task.description:>22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.advance(task, done)

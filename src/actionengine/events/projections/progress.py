"""The progress of a rebuild: a meter that counts events, and a bar for the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], object]
"""A function that is called with numbers of events: those that are done, and all."""


class ProgressMeter:
    """A counter of the events of a rebuild, with those of earlier calls, which reports to a `Progress`."""

    def __init__(self, progress: Progress | None) -> None:
        self.total: int | None = None
        self.applied = 0
        self._progress = progress
        self._done = 0

    def begin(self, total: int, done: int) -> None:
        """Set the number of all events, and of those that are done."""
        self.total, self._done = total, done
        self._report()

    def add(self, number: int) -> None:
        """Add events that are done."""
        self.applied += number
        self._done += number
        if number:
            self._report()

    def _report(self) -> None:
        if self._progress is not None and self.total is not None:
            self.total = max(self.total, self._done)
            self._progress(self._done, self.total)


@contextmanager
def progress_bar(description: str) -> Iterator[Progress]:
    """Show a bar while the block runs: pass it to `Projection.rebuild`. It needs the extra `cli`."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns) as bar:
        task = bar.add_task(description, total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show

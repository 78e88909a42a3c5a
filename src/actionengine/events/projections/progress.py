"""How far a rebuild is: what counts it, and a bar for the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], object]
"""Called with numbers of events: how many are done, and how many there are."""


class ProgressMeter:
    """Counts the events of a rebuild, those of earlier calls too, and tells of them."""

    def __init__(self, progress: Progress | None) -> None:
        self.total: int | None = None
        self.applied = 0
        self._progress = progress
        self._done = 0

    def begin(self, total: int, done: int) -> None:
        """There are so many, of which so many are done."""
        self.total, self._done = total, done
        self._report()

    def add(self, number: int) -> None:
        """So many more are done."""
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
    """A bar that is shown as long as the block runs: give it to `Projection.rebuild`. It needs the extra `cli`."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns) as bar:
        task = bar.add_task(description, total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show

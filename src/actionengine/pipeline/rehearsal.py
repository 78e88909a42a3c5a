"""A rehearsal: stages 5 to 11 of the real pipeline, captured, and always rolled back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from actionengine.pipeline.capture import Capture
from actionengine.pipeline.execution import Execution
from actionengine.pipeline.stages import Stage
from actionengine.pipeline.write_set import WriteSet, write_set
from actionengine.storage.errors import SerializationFailure

StartOver = Callable[[Execution, int, SerializationFailure], Awaitable[int]]
"""Prepares the next attempt of an execution that lost against another; takes and returns the number of attempts."""


class Rehearsals:
    """Runs executions without a commit. `perform` runs stages 7 to 11."""

    def __init__(self, perform: Stage, start_over: StartOver) -> None:
        self._perform = perform
        self._start_over = start_over

    async def rehearse(self, execution: Execution) -> WriteSet:
        """Run an admitted execution that has a capture, and roll it back. Return its write set."""
        attempts = 0
        while True:
            try:
                await self._perform(execution)
                break
            except SerializationFailure as lost:
                attempts = await self._start_over(execution, attempts, lost)
        writes = await captured(execution)
        await execution.roll_back()
        execution.unit_of_work = None
        return writes


async def captured(execution: Execution) -> WriteSet:
    """Return the write set of an execution that has a capture. Nothing can be written any more."""
    capture = execution.capture
    assert capture is not None
    execution.ended = True
    unit_of_work = execution.root.unit_of_work
    if (execution.root.has_session or execution.root.unanswered) and unit_of_work is not None:
        # Pending rows of the session are writes too.
        execution.entry.add_flushed(await unit_of_work.flushed_subjects())
    capture.journal.is_closed = True
    return write_set(capture, execution.events, execution.secrets)


def begin_rehearsal(execution: Execution) -> None:
    """Give an execution a capture that begins now."""
    execution.capture = Capture(execution.entry.started_at, rehearses=True)
    execution.capture.secrets.append(execution.secrets)

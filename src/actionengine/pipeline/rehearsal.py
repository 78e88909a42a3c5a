"""A rehearsal: stages 5 to 11 of the real pipeline, captured, and always rolled back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from actionengine.errors import ActionError, ErrorCode
from actionengine.pipeline.capture import Capture
from actionengine.pipeline.execution import ApprovalNeeded, Execution
from actionengine.pipeline.stages import Stage
from actionengine.pipeline.stored_plan import find_plan
from actionengine.pipeline.write_set import Effects, WriteSet, write_set
from actionengine.storage.errors import SerializationFailure

StartOver = Callable[[Execution, int, SerializationFailure], Awaitable[int]]
"""Prepares the next attempt of an execution that lost against another; takes and returns the number of attempts."""


class Rehearsals:
    """Runs executions without a commit. `perform` runs stages 7 to 11, `prepare` prepares another attempt."""

    def __init__(self, perform: Stage, prepare: Stage, start_over: StartOver) -> None:
        self._perform = perform
        self._prepare = prepare
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

    async def effects(self, execution: Execution) -> Effects:
        """Return the effects of an execution that waits for an approval and has been rolled back: those of its plan,
        where it has one.

        Raises `ActionError` where the execution would fail, or has other effects than its plan.
        """
        subjects, execution.capture = execution.entry.subjects, None
        try:
            await self._prepare(execution)
            plan = None
            if execution.request.plan is None:
                capture = begin_rehearsal(execution)
            else:
                _, plan = await find_plan(execution)
                capture = follow(execution, plan.effects, rehearses=True)
            try:
                writes = await self.rehearse(execution)
            except ApprovalNeeded as needed:
                await execution.roll_back()
                raise ActionError(
                    ErrorCode.UNPROCESSABLE,
                    f"{execution.plan.name} asks for the approval of {needed.action} in the middle of its work, so "
                    "that the effects of the whole cannot be shown to an approver: use binds='payload'",
                ) from None
            if plan is not None:
                plan.effects.check_equal(execution.plan.name, writes)
            return Effects.of(capture, writes)
        finally:
            execution.capture = None
            execution.ended = False
            execution.entry.subjects = subjects
            execution.events.clear()


async def captured(execution: Execution, first_event: int = 0) -> WriteSet:
    """Return the write set of an execution that has a capture, with the events since the first one. Nothing can be
    written any more.

    Raises `ActionError(internal)` while a task or a thread of the handler is still writing.
    """
    capture, tenant = execution.capture, execution.request.tenant
    assert capture is not None
    assert tenant is not None
    with execution.lock:
        execution.ended = True
        is_settled = execution.child is None
    unit_of_work, journal = execution.root.unit_of_work, capture.journal
    has_session = execution.root.has_session and unit_of_work is not None
    if unit_of_work is not None and (has_session or execution.root.unanswered):
        # Pending rows of the session are writes too.
        execution.entry.add_flushed(await unit_of_work.flushed_subjects())
    # Inside an action of the host, the same session goes on.
    journal.close(closes_sql=execution.depth <= 1)
    if unit_of_work is not None and has_session:
        # Wait for the statement that a thread may have begun before.
        await unit_of_work.flushed_subjects()
    if not (is_settled and journal.is_settled):
        raise ActionError(
            ErrorCode.INTERNAL,
            f"{execution.plan.name}: a task or thread that its handler has started is still writing, so that its "
            "writes cannot be compared: let the handler wait for it",
        )
    return write_set(capture, execution.events[first_event:], execution.secrets, tenant)


def begin_rehearsal(execution: Execution) -> Capture:
    """Give an execution a capture that begins now, and return it. It runs past approvals; its caller rolls it back."""
    return _capture(execution, Capture(execution.now, rehearses=True, outer=execution.capture))


def follow(execution: Execution, effects: Effects, rehearses: bool = False) -> Capture:
    """Give an execution the capture with which it can equal these effects, and return it."""
    outer = execution.capture
    rehearses = rehearses or (outer is not None and outer.rehearses)
    return _capture(execution, Capture(effects.now, effects.seed, rehearses=rehearses, outer=outer))


def _capture(execution: Execution, capture: Capture) -> Capture:
    capture.secrets.append(execution.secrets)
    execution.capture = capture
    return capture

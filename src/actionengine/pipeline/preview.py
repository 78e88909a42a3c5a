"""Previews: what an execution would do, and the plan that holds a later execution to it."""

from __future__ import annotations

from asyncio import CancelledError
from dataclasses import dataclass, replace
from typing import Any

from returns.result import Failure, Result, Success

from actionengine.errors import ActionError
from actionengine.hooks import PipelineResult
from actionengine.pipeline.capture import NeededApproval
from actionengine.pipeline.execution import ApprovalNeeded, Execution
from actionengine.pipeline.outcomes import Outcomes, storage_error
from actionengine.pipeline.rehearsal import Rehearsals, begin_rehearsal, captured
from actionengine.pipeline.stages import Stage
from actionengine.pipeline.stored_plan import purge_plans, store_plan
from actionengine.pipeline.write_set import PreviewedEvent, Write, WriteSet
from actionengine.storage.rows import Recording

_PREVIEWS_PER_PURGE = 32
"""Fewer than the plans that one purge deletes at most."""


@dataclass(frozen=True, slots=True)
class Preview:
    """The answer of `engine.preview`: what the execution would return and write. Nothing of it was kept.

    `value` is the result, as an execution returns it. `approval` is the first approval that the execution would wait
    for; the handler ran nevertheless, so that its writes are seen. `writes` and `events` are masked; `omitted` counts
    those that are left out because there are too many. `plan` is for `RequestContext(plan=…)`.
    """

    value: Any
    approval: NeededApproval | None
    writes: tuple[Write, ...]
    events: tuple[PreviewedEvent, ...]
    plan: str
    omitted: int = 0


def answered(execution: Execution) -> Any:
    """Return the value of an execution that has succeeded, as its caller gets it."""
    if execution.plan.action.result.pipeline:
        return PipelineResult(execution.value, replace(execution.hook_context.log))
    return execution.value


class Previews:
    """Previews actions. `admit` runs stages 2 to 4."""

    def __init__(self, rehearsals: Rehearsals, outcomes: Outcomes, admit: Stage) -> None:
        self._rehearsals = rehearsals
        self._outcomes = outcomes
        self._admit = admit

    async def preview(self, execution: Execution) -> Result[Preview, ActionError]:
        """Run stages 2 to 11 and roll back. Return the preview, or the error of the stage that refused."""
        begin_rehearsal(execution)
        try:
            try:
                await self._admit(execution)
                value: Any = None
                try:
                    writes = await self._rehearsals.rehearse(execution)
                    value = answered(execution)
                except ApprovalNeeded as needed:
                    # A built-in handler asks in its middle, and cannot go on.
                    assert execution.capture is not None
                    execution.capture.approvals.append(
                        NeededApproval(needed.action, needed.policy.permission, needed.resource)
                    )
                    writes = await captured(execution)
                    await execution.roll_back()
                    execution.unit_of_work = None
                return Success(await self._store(execution, value, writes))
            except ActionError as refusal:
                return await self._fail(execution, refusal.without_traceback())
            except Exception as error:
                return await self._fail(execution, storage_error(execution, error))
        except BaseException as cut:
            execution.ended = True
            await execution.roll_back()
            if isinstance(cut, CancelledError):
                await self._outcomes.settle_cancellation(execution)
            raise

    async def _store(self, execution: Execution, value: Any, writes: WriteSet) -> Preview:
        """Store the plan and the rows of the log, in a transaction of their own."""
        capture = execution.capture
        assert capture is not None
        execution.add_row("previewed")
        unit_of_work = execution.begin(execution, writable=True)
        plan = await store_plan(unit_of_work, execution, writes)
        await unit_of_work.record(Recording(execution.secrets.scrub_rows(execution.log)))
        await unit_of_work.commit()
        if int(plan[-2:], 16) % _PREVIEWS_PER_PURGE == 0:
            await self._outcomes.clean_up(execution, purge_plans, "the plans that have expired are deleted later")
        approval = capture.approvals[0] if capture.approvals else None
        return Preview(value, approval, writes.writes, writes.events, plan, writes.omitted)

    async def _fail(self, execution: Execution, error: ActionError) -> Result[Preview, ActionError]:
        # Nothing of a preview is kept, in particular not the writes that survive a real failure.
        execution.after_failure = ()
        failed = await self._outcomes.settle_failure(execution, error)
        return Failure(failed.failure())

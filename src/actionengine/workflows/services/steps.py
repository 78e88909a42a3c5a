"""The service `workflow_steps`: what drives a run. Each step is performed by one action, in one transaction with its
effect: the step's row, and where the run goes next.

Who drives, calls `next`, and then `perform` with the key `<run>/<position>`, until the run ends or pauses. It does not
matter how often, or by how many at once: a step that is taken is not taken again, since a run moves on from the version
in which it was read, or not at all. Only workflow actors may; the host makes these.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import UUID7, AwareDatetime, Field
from pydantic_core import from_json
from returns.result import Result, Success

from actionengine.actions import Action, Service, create_action, create_service
from actionengine.conditions.conditions import evaluate
from actionengine.conditions.templates import render
from actionengine.errors import ActionError, ErrorCode, conflict
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.pending_approval import PendingApproval, error_for, find_approval
from actionengine.pipeline.plan import sync_and_async
from actionengine.schemas.models import Input
from actionengine.storage.records import APPROVALS
from actionengine.storage.rows import LogQuery, Record
from actionengine.workflows.definitions.definition import Definition
from actionengine.workflows.definitions.parse import parse_trigger
from actionengine.workflows.definitions.triggers import EventTrigger
from actionengine.workflows.models import RunCursor
from actionengine.workflows.permissions import WorkflowPermissions
from actionengine.workflows.runs.run import RunStepper, check_actor, check_workflow_actor
from actionengine.workflows.runs.start import start_run
from actionengine.workflows.runs.step_handlers import description, perform
from actionengine.workflows.runs.store import derived_run_id, open_store, timestamp
from actionengine.workflows.services.triggers import sees

SERVICE = "workflow_steps"

FAILED_STEP = "failed_step"
"""In an error's details: the step that may be tried again. Without it, what has failed is not the step's doing."""

RETRYABLE = frozenset(
    {
        ErrorCode.CONFLICT,
        ErrorCode.TIMEOUT,
        ErrorCode.UNAVAILABLE,
        ErrorCode.HANDLER_ERROR,
        ErrorCode.IDEMPOTENCY_IN_PROGRESS,
    }
)
"""What another attempt may mend."""


class RunInput(Input):
    """A run, wherever it is."""

    run_id: str


class StepInput(RunInput):
    """A run, at a position."""

    position: int = Field(ge=0)


class StepError(Input):
    """An error, as `ActionError.to_dict` tells it."""

    code: ErrorCode
    message: str
    details: dict[str, Any] = Field(default_factory=dict)


class FailStep(StepInput):
    """The step at this position has failed as often as it may."""

    error: StepError


class AwaitApproval(StepInput):
    """An approval that the step at this position has asked for."""

    approval_id: str


class FireTrigger(Input):
    """What has set off a trigger: what its condition and its input refer to as `input`. `cause` is the event's id, or
    the scheduled time, and `at` when that was; `position` is the event's in the tenant's log."""

    trigger_id: str
    input: dict[str, Any]
    started_by: str
    cause: str
    at: Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC))]
    action_id: UUID7 | None = None
    """Of the execution that has emitted the event, where that was a workflow's."""
    position: int | None = None


class DeclineApproval(Input):
    """An approval that will not be given: rejected, cancelled or expired."""

    approval_id: str


@sync_and_async
async def _next(data: RunInput, ctx: InternalContext) -> Result[RunCursor, ActionError]:
    store = open_store(ctx)
    run = await store.run(data.run_id)
    check_workflow_actor(ctx, run)
    return Success(_point(run, await store.definition(run)))


async def _perform(data: StepInput, ctx: InternalContext, records: str | None) -> Result[RunCursor, ActionError]:
    journey = await RunStepper.load(ctx, data.run_id, data.position)
    approved = ctx.approved
    if approved is not None and (journey is None or journey.waits_for != approved.approval_id):
        # Whoever approves is not told that something was done.
        raise conflict(f"the run {data.run_id} waits for this approval no more", run_id=data.run_id)
    if journey is None:
        return await _current_cursor(data, ctx)
    if approved is None and journey.waits_for is not None:
        # It has asked already: what became of that counts.
        pending = await find_approval(ctx.unit_of_work.records(APPROVALS), journey.waits_for)
        assert pending is not None
        if pending.is_open(await ctx.unit_of_work.now()):
            raise error_for(pending)
        return await _go_on_refused(journey, pending)
    ctx.when_asked(journey.pause_when_asked)
    step = journey.step
    try:
        if (limit_error := journey.limit_error()) is not None:
            await journey.fail_at_limit(limit_error)
            return Success(_point(journey.run, journey.definition))
        done = await perform(journey.step_context, step, records)
    except ActionError as refusal:
        if approved is not None:
            raise
        if (error := refusal.without_traceback()).code in RETRYABLE:
            details = {**error.details, FAILED_STEP: step.name}
            raise ActionError(error.code, error.message, details) from None
        await journey.fail(refusal.without_traceback())
    else:
        await journey.advance(done)
    return Success(_point(journey.run, journey.definition))


@sync_and_async
async def _fail_step(data: FailStep, ctx: InternalContext) -> Result[RunCursor, ActionError]:
    journey = await RunStepper.load(ctx, data.run_id, data.position)
    if journey is None or journey.waits_for is not None:
        return await _current_cursor(data, ctx)
    await journey.fail(ActionError(data.error.code, data.error.message, data.error.details))
    return Success(_point(journey.run, journey.definition))


@sync_and_async
async def _await_approval(data: AwaitApproval, ctx: InternalContext) -> Result[RunCursor, ActionError]:
    journey = await RunStepper.load(ctx, data.run_id, data.position)
    if journey is None:
        # It was cancelled, say, before it has paused.
        await cancel_approval(ctx, data.approval_id, f"the run {data.run_id} waits for it no more")
        return await _current_cursor(data, ctx)
    if journey.waits_for != data.approval_id:
        return await _current_cursor(data, ctx)
    pending = await find_approval(ctx.unit_of_work.records(APPROVALS), data.approval_id)
    if pending is None or pending.is_open(await ctx.unit_of_work.now()):
        return await _current_cursor(data, ctx)
    return await _go_on_refused(journey, pending)


@sync_and_async
async def _decline(data: DeclineApproval, ctx: InternalContext) -> Result[RunCursor | None, ActionError]:
    pending = await find_approval(ctx.unit_of_work.records(APPROVALS), data.approval_id)
    is_of_step = pending is not None and f"{pending.service}.{pending.action}" == f"{SERVICE}.perform"
    if pending is None or not is_of_step or pending.is_open(await ctx.unit_of_work.now()):
        ctx.suppress_default_event()
        return Success(None)
    at = StepInput.model_validate(from_json(pending.payload))
    journey = await RunStepper.load(ctx, at.run_id, at.position)
    if journey is None or journey.waits_for != pending.id:
        return await _current_cursor(at, ctx)
    return await _go_on_refused(journey, pending)


async def _go_on_refused(journey: RunStepper, pending: PendingApproval) -> Result[RunCursor, ActionError]:
    """Go on from a step whose approval was refused: rejected, cancelled or expired."""
    how = pending.status if pending.status != "pending" else "expired"
    by = f" by {pending.decided_by}" if pending.decided_by else ""
    comment = f": {pending.comment}" if pending.comment else ""
    what = "has expired" if how == "expired" else f"was {how}"
    error = ActionError(
        ErrorCode.FORBIDDEN, f"the approval {what}{by}{comment}", {"approval_id": pending.id, "status": how}
    )
    await journey.decline(error)
    return Success(_point(journey.run, journey.definition))


@sync_and_async
async def _fire(data: FireTrigger, ctx: InternalContext) -> Result[str | None, ActionError]:
    store = open_store(ctx)
    record = await store.triggers.get(data.trigger_id)
    head = await store.heads.get(record.data["workflow_key"]) if record is not None else None
    scope = {"input": data.input}
    if head is not None:
        check_actor(ctx, head.id, f"the trigger {data.trigger_id} is fired")
    if record is not None and head is not None and head.data["active"] and sees(record, data.position):
        trigger = parse_trigger(record.data["trigger"], stored=True)
        if not isinstance(trigger, EventTrigger) or trigger.when is None or evaluate(trigger.when, scope):
            input = render(trigger.input, scope)
            # One run of a workflow for one cause, whichever of its triggers has seen that, and in whichever version.
            id = derived_run_id(data.at, head.id, data.cause)
            if await store.runs.get(id) is None:
                outer = await _causing_run(ctx, data.action_id)
                await start_run(
                    ctx, head.id, input, started_by=data.started_by, trigger_id=record.id, id=id, outer=outer
                )
                return Success(id)
    ctx.suppress_default_event()
    return Success(None)


async def _causing_run(ctx: InternalContext, action_id: UUID | None) -> Record | None:
    """The run whose step has executed an action: what drives it gives the run's id as that of the request."""
    if action_id is None:
        return None
    next_id = str(UUID(int=action_id.int + 1))
    for row in await ctx.unit_of_work.read_log(LogQuery(before=next_id, limit=1)):
        if (row.id, row.actor_type) == (str(action_id), "workflow") and row.request_id is not None:
            return await open_store(ctx).runs.get(row.request_id)
    return None


async def _current_cursor(data: StepInput, ctx: InternalContext) -> Result[Any, ActionError]:
    """The answer where a run is somewhere else by now: where that is."""
    ctx.suppress_default_event()
    store = open_store(ctx)
    run = await store.run(data.run_id)
    return Success(_point(run, await store.definition(run)))


async def cancel_approval(ctx: InternalContext, approval_id: str, reason: str) -> None:
    """Nobody approves a step that is not taken any more."""
    approvals = ctx.unit_of_work.records(APPROVALS)
    pending = await find_approval(approvals, approval_id)
    if pending is not None and pending.status == "pending":
        decided = {"status": "cancelled", "decided_by": str(ctx.actor), "comment": reason}
        decided["decided_at"] = await timestamp(ctx)
        await approvals.update(approval_id, {**pending.document(), **decided}, pending.version)
        ctx.add_subject(f"approval/{approval_id}")


def _point(run: Record, definition: Definition) -> RunCursor:
    data = run.data
    retry = definition.step(data["step"]).retry if data["step"] is not None else None
    return RunCursor(
        run_id=run.id,
        workflow_key=data["workflow_key"],
        status=data["status"],
        step=data["step"],
        position=data["position"],
        dispatch=data["dispatch"],
        retry_attempts=retry.attempts if retry else 1,
        retry_seconds=retry.seconds if retry else 0.0,
        description=description(run, definition.step(data["step"])) if data["step"] is not None else None,
        approval_id=data["approval_id"],
    )


def _internal(name: str, description: str, handler: Any, validation: Any, *, read_only: bool = False) -> Action:
    return create_action(
        name=name,
        description=description,
        handler=handler,
        validation=validation,
        allowed_actors=("workflow",),
        read_only=read_only,
    )


def workflow_steps_service(permissions: WorkflowPermissions) -> Service:
    """The service; what steps do to documents asks for these permissions."""

    @sync_and_async
    async def perform_step(data: StepInput, ctx: InternalContext) -> Result[RunCursor, ActionError]:
        return await _perform(data, ctx, permissions.records)

    return create_service(
        name=SERVICE,
        description="What drives the runs of workflows: for workflow actors alone",
        permissions=() if permissions.records is None else (f"{permissions.records}.*",),
        actions=[
            _internal("next", "Where a run is", _next, RunInput, read_only=True),
            _internal("perform", "Take the step that a run is at", perform_step, StepInput),
            _internal("fail_step", "Have the step that a run is at failed for good", _fail_step, FailStep),
            _internal(
                "await_approval",
                "Go on with what became of an approval that a run waits for",
                _await_approval,
                AwaitApproval,
            ),
            _internal("fire", "Start the run that a trigger is for, where its condition holds", _fire, FireTrigger),
            _internal("decline", "Move on a run whose approval is refused", _decline, DeclineApproval),
        ],
    )

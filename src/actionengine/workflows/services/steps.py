"""The service `workflow_steps`, which advances runs. One action performs a step, in one transaction with its effect,
its record, and the move of the run to the next step.

An executor calls `next`, and then `perform` with the key `<run>/<position>`, until the run ends or pauses. Several
executors may do so at once, and repeat calls: a run moves only from the version in which it was read, so no step is
performed twice. Only workflow actors may call it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from pydantic import UUID7, AwareDatetime, Field
from pydantic_core import from_json
from returns.result import Result, Success

from actionengine.actions import Service, create_service
from actionengine.builtin.causes import approval_subject
from actionengine.builtin.declarations import declare
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
from actionengine.workflows.runs.step_handlers import description, excluded_approvers, perform
from actionengine.workflows.runs.store import derived_run_id, open_store
from actionengine.workflows.services.triggers import sees

SERVICE = "workflow_steps"

FAILED_STEP = "failed_step"
"""The key in an error's details that names the step to try again. Without it, the step did not cause the error."""

RETRYABLE = frozenset(
    {
        ErrorCode.CONFLICT,
        ErrorCode.TIMEOUT,
        ErrorCode.UNAVAILABLE,
        ErrorCode.HANDLER_ERROR,
        ErrorCode.IDEMPOTENCY_IN_PROGRESS,
        ErrorCode.RATE_LIMITED,
    }
)
"""Errors after which another attempt at the step may succeed."""


class RunInput(Input):
    """A run at any position."""

    run_id: str = Field(description="The id of the run.")


class StepInput(RunInput):
    """A run at a position."""

    position: int = Field(ge=0, description="The number of steps that the run had taken when its step was read.")


class StepError(Input):
    """An error, as `ActionError.to_dict` gives it."""

    code: ErrorCode = Field(description="The code of the error.")
    message: str = Field(description="The text of the error.")
    details: dict[str, Any] = Field(default_factory=dict, description="The details of the error, by its code.")


class FailStep(StepInput):
    """The permanent failure of the step at a position."""

    error: StepError = Field(description="The error of the step.")


class AwaitApproval(StepInput):
    """An approval that the step at a position waits for."""

    approval_id: str = Field(description="The id of the approval.")


class FireTrigger(Input):
    """The cause of a trigger. Its condition and its input read `input`. `cause` is the id of the event or the scheduled
    time, `at` its time, and `position` that of the event in the tenant's log."""

    trigger_id: str = Field(description="The id of the trigger.")
    input: dict[str, Any] = Field(description="The event, or the scheduled time, that the trigger reads as `input`.")
    started_by: str = Field(description="The actor that starts the run, as type:id.")
    cause: str = Field(description="The id of the event, or the scheduled time: one cause starts one run.")
    at: Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC))] = Field(
        description="The time of the cause."
    )
    action_id: UUID7 | None = Field(
        default=None, description="The execution that emitted the event, if a workflow executed it."
    )
    """The execution that emitted the event, if a workflow executed it."""
    position: int | None = Field(default=None, description="The position of the event in the tenant's log.")


class DeclineApproval(Input):
    """An approval that will not be given: rejected, cancelled or expired."""

    approval_id: str = Field(description="The id of the approval.")


@sync_and_async
async def _next(data: RunInput, ctx: InternalContext) -> Result[RunCursor, ActionError]:
    store = open_store(ctx)
    run = await store.run(data.run_id)
    check_workflow_actor(ctx, run)
    return Success(_to_cursor(run, await store.definition(run)))


async def _perform(data: StepInput, ctx: InternalContext, records: str | None) -> Result[RunCursor, ActionError]:
    stepper = await RunStepper.load(ctx, data.run_id, data.position)
    approved = ctx.approved
    if approved is not None and (stepper is None or stepper.approval_id != approved.approval_id):
        # The approver has to see that nothing happened.
        raise conflict(f"the run {data.run_id} no longer waits for this approval", run_id=data.run_id)
    if stepper is None:
        return await _current_cursor(data, ctx)
    if approved is None and stepper.approval_id is not None:
        # The step has asked already, and that approval counts.
        pending = await find_approval(ctx.unit_of_work.records(APPROVALS), stepper.approval_id)
        assert pending is not None
        if pending.is_open(await ctx.unit_of_work.now()):
            raise error_for(pending)
        return await _continue_refused(stepper, pending)
    ctx.when_asked(stepper.pause_when_asked)
    step = stepper.step
    ctx.exclude_approvers(excluded_approvers(stepper.run, step))
    try:
        if (limit_error := stepper.limit_error()) is not None:
            await stepper.fail_at_limit(limit_error)
            return Success(_to_cursor(stepper.run, stepper.definition))
        result = await perform(stepper.step_context, step, records)
    except ActionError as refusal:
        if approved is not None:
            raise
        if (error := refusal.without_traceback()).code in RETRYABLE:
            details = {**error.details, FAILED_STEP: step.name}
            raise ActionError(error.code, error.message, details) from None
        await stepper.fail(refusal.without_traceback())
    else:
        await stepper.advance(result)
    return Success(_to_cursor(stepper.run, stepper.definition))


@sync_and_async
async def _fail_step(data: FailStep, ctx: InternalContext) -> Result[RunCursor, ActionError]:
    stepper = await RunStepper.load(ctx, data.run_id, data.position)
    if stepper is None or stepper.approval_id is not None:
        return await _current_cursor(data, ctx)
    await stepper.fail(ActionError(data.error.code, data.error.message, data.error.details))
    return Success(_to_cursor(stepper.run, stepper.definition))


@sync_and_async
async def _await_approval(data: AwaitApproval, ctx: InternalContext) -> Result[RunCursor, ActionError]:
    stepper = await RunStepper.load(ctx, data.run_id, data.position)
    if stepper is None:
        # The run was cancelled before it paused, for example.
        await cancel_approval(ctx, data.approval_id, f"the run {data.run_id} no longer waits for it")
        return await _current_cursor(data, ctx)
    if stepper.approval_id != data.approval_id:
        return await _current_cursor(data, ctx)
    pending = await find_approval(ctx.unit_of_work.records(APPROVALS), data.approval_id)
    if pending is None or pending.is_open(await ctx.unit_of_work.now()):
        return await _current_cursor(data, ctx)
    return await _continue_refused(stepper, pending)


@sync_and_async
async def _decline(data: DeclineApproval, ctx: InternalContext) -> Result[RunCursor | None, ActionError]:
    pending = await find_approval(ctx.unit_of_work.records(APPROVALS), data.approval_id)
    is_of_step = pending is not None and f"{pending.service}.{pending.action}" == f"{SERVICE}.perform"
    if pending is None or not is_of_step or pending.is_open(await ctx.unit_of_work.now()):
        ctx.suppress_default_event()
        return Success(None)
    at = StepInput.model_validate(from_json(pending.payload))
    stepper = await RunStepper.load(ctx, at.run_id, at.position)
    if stepper is None or stepper.approval_id != pending.id:
        return await _current_cursor(at, ctx)
    return await _continue_refused(stepper, pending)


async def _continue_refused(stepper: RunStepper, pending: PendingApproval) -> Result[RunCursor, ActionError]:
    """Continue after a step whose approval was rejected or cancelled, or has expired."""
    status = pending.status if pending.status != "pending" else "expired"
    by = f" by {pending.decided_by}" if pending.decided_by else ""
    comment = f": {pending.comment}" if pending.comment else ""
    refusal = "has expired" if status == "expired" else f"was {status}"
    details = {"approval_id": pending.id, "status": status}
    error = ActionError(ErrorCode.FORBIDDEN, f"the approval {refusal}{by}{comment}", details)
    await stepper.decline(error)
    return Success(_to_cursor(stepper.run, stepper.definition))


@sync_and_async
async def _fire(data: FireTrigger, ctx: InternalContext) -> Result[str | None, ActionError]:
    store = open_store(ctx)
    record = await store.triggers.get(data.trigger_id)
    head = await store.heads.get(record.data["workflow_key"]) if record is not None else None
    scope = {"input": data.input}
    if head is not None:
        check_actor(ctx, head.id, f"the trigger {data.trigger_id} is fired")
        ctx.replay_for_actor_only()
    if record is not None and head is not None and head.data["active"] and sees(record, data.position):
        trigger = parse_trigger(record.data["trigger"], stored=True)
        if not isinstance(trigger, EventTrigger) or trigger.when is None or evaluate(trigger.when, scope):
            input = render(trigger.input, scope)
            # A cause starts one run of a workflow, by whichever of its triggers, in whichever version.
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
    """Return the run whose step executed an action. The executor gives the run's id as that of the request."""
    if action_id is None:
        return None
    next_id = str(UUID(int=action_id.int + 1))
    for row in await ctx.unit_of_work.read_log(LogQuery(before=next_id, limit=1)):
        if (row.id, row.actor_type) == (str(action_id), "workflow") and row.request_id is not None:
            return await open_store(ctx).runs.get(row.request_id)
    return None


async def _current_cursor(data: StepInput, ctx: InternalContext) -> Result[Any, ActionError]:
    """Return the cursor of a run that has moved from the position."""
    ctx.suppress_default_event()
    store = open_store(ctx)
    run = await store.run(data.run_id)
    return Success(_to_cursor(run, await store.definition(run)))


async def cancel_approval(ctx: InternalContext, approval_id: str, reason: str) -> None:
    """Cancel a pending approval that no run waits for."""
    approvals = ctx.unit_of_work.records(APPROVALS)
    pending = await find_approval(approvals, approval_id)
    if pending is not None and pending.status == "pending":
        decision = {"status": "cancelled", "decided_by": str(ctx.actor), "comment": reason}
        decided = pending.model_copy(update={**decision, "decided_at": await ctx.time()})
        await approvals.update(approval_id, decided.document(), pending.version)
        ctx.add_subject(approval_subject(approval_id))


def _to_cursor(run: Record, definition: Definition) -> RunCursor:
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


def workflow_steps_service(permissions: WorkflowPermissions) -> Service:
    """Return the service. Steps that change documents ask for these permissions."""

    @sync_and_async
    async def perform_step(data: StepInput, ctx: InternalContext) -> Result[RunCursor, ActionError]:
        return await _perform(data, ctx, permissions.records)

    internal = partial(declare, allowed_actors=("workflow",))
    return create_service(
        name=SERVICE,
        description="Advance the runs of workflows; only for workflow actors",
        permissions=() if permissions.records is None else (f"{permissions.records}.*",),
        actions=[
            internal("next", "The current step of a run", _next, RunInput, read_only=True),
            internal("perform", "Perform the current step of a run", perform_step, StepInput, destructive=True),
            internal("fail_step", "Fail the current step of a run permanently", _fail_step, FailStep),
            internal("await_approval", "Continue a run whose approval is decided", _await_approval, AwaitApproval),
            internal("fire", "Start the run of a trigger, if its condition holds", _fire, FireTrigger),
            internal("decline", "Continue a run whose approval is refused", _decline, DeclineApproval),
        ],
    )

"""The actions of runs: start, resume, cancel, get, list."""

from __future__ import annotations

from returns.result import Result, Success

from actionengine.errors import ActionError, ErrorCode, conflict
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.pending_approval import find_approval
from actionengine.pipeline.plan import sync_and_async
from actionengine.storage.records import APPROVALS
from actionengine.storage.rows import Record
from actionengine.workflows.models import CancelRun, ListRuns, Run, RunReference, RunSummary, StartRun, StepRecord
from actionengine.workflows.runs.events import emit_run_ended, emit_run_started
from actionengine.workflows.runs.start import start_run
from actionengine.workflows.runs.step_handlers import ASSIGNMENTS
from actionengine.workflows.runs.store import open_store, principal_of, step_id, timestamp
from actionengine.workflows.services.steps import cancel_approval

_MAX_LISTED_STEPS = 1000


@sync_and_async
async def start(data: StartRun, ctx: InternalContext) -> Result[RunSummary, ActionError]:
    """Start a run."""
    run = await start_run(ctx, data.key, data.input, started_by=str(ctx.actor))
    return Success(to_summary(run))


@sync_and_async
async def resume(data: RunReference, ctx: InternalContext) -> Result[RunSummary, ActionError]:
    """Try the step again that a run is paused at."""
    store = open_store(ctx)
    run = await store.run(data.run_id)
    if run.data["status"] != "paused":
        raise conflict(f"the run {run.id} is {run.data['status']}, not paused", status=run.data["status"])
    if run.data["paused_for"] == "approval":
        raise await _waiting_error(ctx, run)
    if run.data["paused_for"] == "assignment":
        id = run.data["assignment_id"]
        raise conflict(
            f"the run {run.id} waits for the assignment {id}: complete it, or cancel the run",
            status="paused",
            assignment_id=id,
        )
    changed = {"status": "running", "paused_for": None, "error": None, "dispatch": run.data["dispatch"] + 1}
    run = await store.runs.update(run.id, {**run.data, **changed, "updated_at": await timestamp(ctx)}, run.version)
    emit_run_started(ctx, run)
    return Success(to_summary(run))


async def _waiting_error(ctx: InternalContext, run: Record) -> ActionError:
    """Return the error of a run that waits for an approval."""
    approval_id = run.data["approval_id"]
    pending = await find_approval(ctx.unit_of_work.records(APPROVALS), approval_id)
    is_open = pending is not None and pending.is_open(await ctx.unit_of_work.now())
    advice = "approve or reject it" if is_open else "it is decided or has expired, so the run continues; or cancel it"
    message = f"the run {run.id} waits for the approval {approval_id}: {advice}"
    return conflict(message, status="paused", approval_id=approval_id)


@sync_and_async
async def cancel(data: CancelRun, ctx: InternalContext) -> Result[RunSummary, ActionError]:
    """End a run at its current step."""
    store = open_store(ctx)
    run = await store.run(data.run_id)
    if run.data["status"] == "cancelled":
        ctx.suppress_default_event()
        return Success(to_summary(run))
    if run.data["ended_at"] is not None:
        raise conflict(f"the run {run.id} has {run.data['status']}: it cannot be cancelled", status=run.data["status"])
    if ctx.lock_holder == run.id:
        raise ActionError(
            ErrorCode.UNPROCESSABLE,
            f"a step of the run {run.id} cannot cancel it: lead the step to the end, or to fail",
            {"run_id": run.id},
        )
    now = await timestamp(ctx)
    reason = data.reason or ctx.reason or "no reason was given"
    error = ActionError(ErrorCode.CONFLICT, f"cancelled by {ctx.actor}: {reason}").to_dict()
    if run.data["approval_id"] is not None:
        await cancel_approval(ctx, run.data["approval_id"], reason)
    if run.data["assignment_id"] is not None:
        await _cancel_assignment(ctx, run.data["assignment_id"])
    await store.release_locks(run)
    changed = {
        "status": "cancelled",
        "step": None,
        "paused_for": None,
        "approval_id": None,
        "assignment_id": None,
        "error": error,
        "ended_at": now,
        "updated_at": now,
    }
    approval_id = run.data["approval_id"]
    run = await store.runs.update(run.id, {**run.data, **changed}, run.version)
    await store.record_end(run)
    emit_run_ended(ctx, run, approval_id)
    return Success(to_summary(run))


async def _cancel_assignment(ctx: InternalContext, id: str) -> None:
    """Cancel an assignment that the run waited for, unless it is completed."""
    assignments = ctx.unit_of_work.records(ASSIGNMENTS)
    record = await assignments.get(id)
    if record is not None and record.data.get("status") != "completed":
        await assignments.update(id, {**record.data, "status": "cancelled"}, record.version)
        ctx.add_subject(f"{ASSIGNMENTS}/{id}")


@sync_and_async
async def get_run(data: RunReference, ctx: InternalContext) -> Result[Run, ActionError]:
    """Return one run with its steps."""
    store = open_store(ctx)
    run = await store.run(data.run_id)
    first = max(0, run.data["position"] - _MAX_LISTED_STEPS)
    limit = max(1, run.data["position"] - first)
    # From the newest backwards: a page of large steps is short.
    taken = await store.steps.list(limit=limit, after=step_id(run.id, run.data["position"]), descending=True)
    steps = tuple(StepRecord.model_validate(step.data) for step in reversed(taken) if step.data["run_id"] == run.id)
    found = Run(**dict(to_summary(run)), steps=steps)
    ctx.set_logged_output({"status": found.status, "position": found.position})
    return Success(found)


@sync_and_async
async def list_runs(data: ListRuns, ctx: InternalContext) -> Result[tuple[RunSummary, ...], ActionError]:
    """Return runs by id."""
    runs = await open_store(ctx).runs.list(data.filter(), data.limit, data.after, data.newest_first)
    ctx.set_logged_output({"count": len(runs)})
    return Success(tuple(map(to_summary, runs)))


def to_summary(run: Record) -> RunSummary:
    """Return a run as callers see it."""
    principal = principal_of(run)
    return RunSummary.model_validate({"id": run.id, **run.data, "on_behalf_of": principal.names if principal else ()})

"""The service `workflows`: define, activate, and the runs: start, resume, cancel, get, list."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from returns.result import Result, Success

from actionengine.action_context import ActionContext
from actionengine.actions import Action, Service, create_action, create_service
from actionengine.approval_record import find_approval
from actionengine.changes.store import conflict, new_id
from actionengine.errors import ActionError, ActionException, ErrorCode, failing
from actionengine.plan import native
from actionengine.services.access import SystemAccess, access_of
from actionengine.storage.port import APPROVALS, Record
from actionengine.workflows.definition import Definition, document, parse_definition
from actionengine.workflows.models import (
    CancelRun,
    DefineWorkflow,
    ListRuns,
    ListWorkflows,
    PurgeRuns,
    Run,
    RunReference,
    RunSummary,
    StartRun,
    StepTaken,
    Workflow,
    WorkflowVersion,
)
from actionengine.workflows.performing import ASSIGNMENTS
from actionengine.workflows.permissions import ACTIVATORS, WorkflowPermissions
from actionengine.workflows.purging import purge
from actionengine.workflows.starting import start_run
from actionengine.workflows.step_types import ActionStep
from actionengine.workflows.steps import SERVICE as STEPS_SERVICE
from actionengine.workflows.steps import cancel_approval
from actionengine.workflows.store import (
    insert_once,
    parsed,
    run_subject,
    step_id,
    store_of,
    timestamp,
    version_id,
)
from actionengine.workflows.telling import tell_end, tell_going
from actionengine.workflows.triggers import replace_defined_trigger

_MOST_STEPS_SHOWN = 1000


@native
async def _define(data: DefineWorkflow, ctx: ActionContext) -> Result[Workflow, ActionError]:
    definition = parse_definition(data.definition)
    access = access_of(ctx)
    _check_actions(access, definition)
    store = store_of(ctx)
    head = await store.heads.get(data.key)
    version = 1 if head is None else head.data["newest"] + 1
    workflow = {
        "key": data.key,
        "version": version,
        "definition_id": new_id(),
        "name": data.name or data.key,
        "description": data.description,
        "status": "draft",
        "definition": document(definition),
        "defined_by": str(ctx.actor),
        "created_at": timestamp(),
    }
    if head is not None:
        await store.heads.update(data.key, {**head.data, "newest": version}, head.version)
    elif not await insert_once(store.heads, {"newest": version, "active": None}, data.key):
        raise conflict(f"the workflow {data.key!r} is being defined by somebody else: try again", key=data.key)
    await store.workflows.insert(workflow, version_id(data.key, version))
    access.add_subject(f"workflow/{data.key}")
    return Success(Workflow.model_validate(workflow))


@native
async def _activate(data: WorkflowVersion, ctx: ActionContext) -> Result[Workflow, ActionError]:
    store = store_of(ctx)
    record = await store.workflow(data.key, data.version)
    head = await store.heads.get(data.key)
    assert head is not None
    active = head.data["active"]
    if active == record.data["version"]:
        access_of(ctx).nothing_changed()
        return Success(Workflow.model_validate(record.data))
    definition = parsed(record)
    # Actions may have gone since it was defined.
    _check_actions(access_of(ctx), definition)
    if active is not None:
        before = await store.workflow(data.key, active)
        await store.workflows.update(before.id, {**before.data, "status": "retired"}, before.version)
    record = await store.workflows.update(record.id, {**record.data, "status": "active"}, record.version)
    await store.heads.update(data.key, {**head.data, "active": record.data["version"]}, head.version)
    await replace_defined_trigger(ctx, store, data.key, definition.trigger)
    access_of(ctx).add_subject(f"workflow/{data.key}")
    return Success(Workflow.model_validate(record.data))


@native
async def _get_workflow(data: WorkflowVersion, ctx: ActionContext) -> Result[Workflow, ActionError]:
    record = await store_of(ctx).workflow(data.key, data.version)
    return Success(Workflow.model_validate(record.data))


@native
async def _list_workflows(data: ListWorkflows, ctx: ActionContext) -> Result[tuple[Workflow, ...], ActionError]:
    store = store_of(ctx)
    heads = await store.heads.list(limit=data.limit, after=data.after)
    found = [(await store.workflow(head.id, head.data["newest"])).data for head in heads]
    access_of(ctx).show({"count": len(found)})
    return Success(tuple(map(Workflow.model_validate, found)))


@native
async def _start(data: StartRun, ctx: ActionContext) -> Result[RunSummary, ActionError]:
    run = await start_run(ctx, data.key, data.input, started_by=str(ctx.actor))
    return Success(summary_of(run))


@native
async def _resume(data: RunReference, ctx: ActionContext) -> Result[RunSummary, ActionError]:
    store = store_of(ctx)
    run = await store.run(data.run_id)
    if run.data["status"] != "paused":
        raise conflict(f"the run {run.id} is {run.data['status']}, not paused", status=run.data["status"])
    if run.data["paused_for"] == "approval":
        raise await _waiting(ctx, run)
    if run.data["paused_for"] == "assignment":
        id = run.data["assignment_id"]
        raise conflict(
            f"the run {run.id} waits for the assignment {id}: complete that, or cancel the run",
            status="paused",
            assignment_id=id,
        )
    changed = {"status": "running", "paused_for": None, "error": None, "turn": run.data["turn"] + 1}
    run = await store.runs.update(run.id, {**run.data, **changed, "updated_at": timestamp()}, run.version)
    tell_going(ctx, run)
    return Success(summary_of(run))


async def _waiting(ctx: ActionContext, run: Record) -> ActionException:
    """The answer for a run that somebody has to decide about."""
    approval_id = run.data["approval_id"]
    pending = await find_approval(access_of(ctx).records(APPROVALS), approval_id)
    is_open = pending is not None and pending.is_open(datetime.now(UTC))
    to_do = (
        "approve or reject that" if is_open else "that is decided or has expired, and moves the run on; or cancel it"
    )
    return conflict(
        f"the run {run.id} waits for the approval {approval_id}: {to_do}", status="paused", approval_id=approval_id
    )


@native
async def _cancel(data: CancelRun, ctx: ActionContext) -> Result[RunSummary, ActionError]:
    store = store_of(ctx)
    run = await store.run(data.run_id)
    if run.data["status"] == "cancelled":
        access_of(ctx).nothing_changed()
        return Success(summary_of(run))
    if run.data["ended_at"] is not None:
        raise conflict(f"the run {run.id} has {run.data['status']}: it cannot be cancelled", status=run.data["status"])
    if access_of(ctx).lock_holder == run.id:
        raise failing(
            ErrorCode.UNPROCESSABLE,
            f"a step of the run {run.id} cannot cancel it: have the step lead to the end, or fail",
            run_id=run.id,
        )
    now = timestamp()
    reason = data.reason or ctx.reason or "no reason was given"
    error = ActionError(ErrorCode.CONFLICT, f"cancelled by {ctx.actor}: {reason}").to_dict()
    for approval_id in await _approvals_of(ctx, run):
        await cancel_approval(ctx, approval_id, reason)
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
    run = await store.runs.update(run.id, {**run.data, **changed}, run.version)
    tell_end(ctx, run)
    return Success(summary_of(run))


async def _approvals_of(ctx: ActionContext, run: Record) -> list[str]:
    """The approval that a run waits for; or that its step has asked for, where its driver was killed before it paused
    the run. That has the key of the step, and is younger than the run."""
    if run.data["status"] == "paused":
        return [] if run.data["approval_id"] is None else [run.data["approval_id"]]
    asked = {"status": "pending", "idempotency_key": f"{run.id}/{run.data['position']}"}
    return [record.id for record in await access_of(ctx).records(APPROVALS).list(asked, after=run.id)]


async def _cancel_assignment(ctx: ActionContext, id: str) -> None:
    """Nobody need do what no run waits for any more."""
    assignments = access_of(ctx).records(ASSIGNMENTS)
    record = await assignments.get(id)
    if record is not None and record.data.get("status") != "completed":
        await assignments.update(id, {**record.data, "status": "cancelled"}, record.version)
        access_of(ctx).add_subject(f"{ASSIGNMENTS}/{id}")


@native
async def _get(data: RunReference, ctx: ActionContext) -> Result[Run, ActionError]:
    store = store_of(ctx)
    run = await store.run(data.run_id)
    first = max(0, run.data["position"] - _MOST_STEPS_SHOWN)
    after = step_id(run.id, first - 1) if first else f"{run.id}/"
    taken = await store.steps.list(limit=max(1, run.data["position"] - first), after=after)
    steps = tuple(StepTaken.model_validate(step.data) for step in taken if step.data["run_id"] == run.id)
    found = Run(**dict(summary_of(run)), steps=steps)
    access_of(ctx).show({"status": found.status, "position": found.position})
    return Success(found)


@native
async def _list(data: ListRuns, ctx: ActionContext) -> Result[tuple[RunSummary, ...], ActionError]:
    wanted = {"workflow_key": data.key, "status": data.status}
    filter = {name: value for name, value in wanted.items() if value is not None}
    runs = await store_of(ctx).runs.list(filter, data.limit, data.after, data.newest_first)
    access_of(ctx).show({"count": len(runs)})
    return Success(tuple(map(summary_of, runs)))


def summary_of(run: Record) -> RunSummary:
    """A run as callers see it."""
    return RunSummary.model_validate({"id": run.id, **run.data})


def _check_actions(access: SystemAccess, definition: Definition) -> None:
    """Raises `ActionException(invalid_input)` for a step whose action is not there, or no workflow may execute."""
    for step in definition.steps:
        if not isinstance(step, ActionStep):
            continue
        service, _, name = step.action.partition(".")
        action = access.find_action(service, name)
        if action is None:
            reason = f"there is no action {step.action}"
        elif service == STEPS_SERVICE:
            reason = f"{step.action} drives runs, and is no step of one"
        elif action.allowed_actors is not None and "workflow" not in action.allowed_actors:
            reason = f"{step.action} is only for {', '.join(sorted(action.allowed_actors))} actors"
        else:
            continue
        fields = [{"path": f"definition.steps.{step.name}.action", "reason": reason, "type": "action"}]
        raise failing(ErrorCode.INVALID_INPUT, f"the definition: the step {step.name!r}: {reason}", fields=fields)


def _workflow_subject(data: Any) -> str:
    return f"workflow/{data.key}"


def _run_subject(data: Any) -> str:
    return run_subject(data.run_id)


def workflows_service(permissions: WorkflowPermissions) -> Service:
    """The service, its actions asking for these permissions."""

    def reading(name: str, description: str, handler: Any, validation: Any, resource: Any = None) -> Action:
        return create_action(
            name=name,
            description=description,
            handler=handler,
            validation=validation,
            permission=permissions.read,
            resource=resource,
            read_only=True,
        )

    def managing(name: str, description: str, handler: Any, validation: Any) -> Action:
        return create_action(
            name=name,
            description=description,
            handler=handler,
            validation=validation,
            permission=permissions.manage,
            resource=_run_subject,
        )

    return create_service(
        name="workflows",
        description="Work that lasts longer than a request: definitions, and their runs",
        actions=[
            create_action(
                name="define",
                description="Write a new version of a workflow, a draft",
                handler=_define,
                validation=DefineWorkflow,
                permission=permissions.define,
                resource=_workflow_subject,
            ),
            create_action(
                name="activate",
                description="Put a version of a workflow into use, for the runs that start from now on",
                handler=_activate,
                validation=WorkflowVersion,
                permission=permissions.activate,
                allowed_actors=ACTIVATORS,
                resource=_workflow_subject,
            ),
            reading("get_definition", "One version of a workflow", _get_workflow, WorkflowVersion, _workflow_subject),
            reading("list_definitions", "The newest version of each workflow", _list_workflows, ListWorkflows),
            create_action(
                name="start",
                description="Start a run of a workflow",
                handler=_start,
                validation=StartRun,
                permission=permissions.start,
                resource=_workflow_subject,
            ),
            managing("resume", "Try the step again at which a run is paused", _resume, RunReference),
            managing("cancel", "End a run where it is", _cancel, CancelRun),
            reading("get", "One run, with the steps that it has taken", _get, RunReference, _run_subject),
            reading("list", "Runs, oldest first unless asked otherwise", _list, ListRuns),
            create_action(
                name="purge",
                description="Remove runs that ended before a time, with the steps that they have taken",
                handler=purge,
                validation=PurgeRuns,
                permission=permissions.manage,
                allowed_actors=ACTIVATORS,
            ),
        ],
    )

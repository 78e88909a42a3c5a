"""The actions of definitions: define, activate, get and list versions of workflows."""

from __future__ import annotations

from pydantic_core import to_json
from returns.result import Result, Success

from actionengine.errors import ActionError, ErrorCode, conflict
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.plan import sync_and_async
from actionengine.storage.pages import MAX_PAGE_BYTES
from actionengine.text.names import hint
from actionengine.workflows.definitions.definition import Definition
from actionengine.workflows.definitions.parse import parse_definition, to_document
from actionengine.workflows.definitions.steps import ActionStep
from actionengine.workflows.models import DefineWorkflow, ListWorkflows, Workflow, WorkflowVersion
from actionengine.workflows.runs.store import (
    insert_once,
    load_definition,
    open_store,
    timestamp,
    version_id,
    workflow_subject,
)
from actionengine.workflows.services.steps import SERVICE as STEPS_SERVICE
from actionengine.workflows.services.triggers import apply_defined_trigger


@sync_and_async
async def define(data: DefineWorkflow, ctx: InternalContext) -> Result[Workflow, ActionError]:
    """Write a new version of a workflow, a draft."""
    definition = parse_definition(data.definition)
    _check_actions(ctx, definition)
    store = open_store(ctx)
    head = await store.heads.get(data.key)
    version = 1 if head is None else head.data["newest"] + 1
    workflow = {
        "key": data.key,
        "version": version,
        "definition_id": ctx.new_id(),
        "name": data.name or data.key,
        "description": data.description,
        "status": "draft",
        "definition": to_document(definition),
        "defined_by": str(ctx.actor),
        "created_at": await timestamp(ctx),
    }
    if head is not None:
        await store.heads.update(data.key, {**head.data, "newest": version}, head.version)
    elif not await insert_once(store.heads, {"newest": version, "active": None, "trigger": None}, data.key):
        raise conflict(f"another request defines the workflow {data.key!r} at the same time: try again", key=data.key)
    await store.workflows.insert(workflow, version_id(data.key, version))
    ctx.add_subject(workflow_subject(data.key))
    return Success(Workflow.model_validate(workflow))


@sync_and_async
async def activate(data: WorkflowVersion, ctx: InternalContext) -> Result[Workflow, ActionError]:
    """Activate a version of a workflow, and its trigger."""
    store = open_store(ctx)
    record = await store.workflow(data.key, data.version)
    head = await store.heads.get(data.key)
    assert head is not None
    active = head.data["active"]
    if active == record.data["version"]:
        ctx.suppress_default_event()
        return Success(Workflow.model_validate(record.data))
    definition = load_definition(record)
    # The host may have removed actions since it was defined.
    _check_actions(ctx, definition)
    if active is not None:
        before = await store.workflow(data.key, active)
        await store.workflows.update(before.id, {**before.data, "status": "retired"}, before.version)
    record = await store.workflows.update(record.id, {**record.data, "status": "active"}, record.version)
    trigger = await apply_defined_trigger(ctx, store, head, definition.trigger)
    updated = {**head.data, "active": record.data["version"], "trigger": trigger}
    await store.heads.update(data.key, updated, head.version)
    ctx.add_subject(workflow_subject(data.key))
    return Success(Workflow.model_validate(record.data))


@sync_and_async
async def get_definition(data: WorkflowVersion, ctx: InternalContext) -> Result[Workflow, ActionError]:
    """Return one version of a workflow."""
    record = await open_store(ctx).workflow(data.key, data.version)
    return Success(Workflow.model_validate(record.data))


@sync_and_async
async def list_definitions(data: ListWorkflows, ctx: InternalContext) -> Result[tuple[Workflow, ...], ActionError]:
    """Return the newest version of each workflow."""
    store = open_store(ctx)
    heads = await store.heads.list(limit=data.limit, after=data.after)
    found: list[Workflow] = []
    size = 0
    for head in heads:
        workflow = await store.workflow(head.id, head.data["newest"])
        found.append(Workflow.model_validate(workflow.data))
        size += len(to_json(workflow.data))
        if size >= MAX_PAGE_BYTES:
            break
    ctx.set_logged_output({"count": len(found)})
    return Success(tuple(found))


def _check_actions(ctx: InternalContext, definition: Definition) -> None:
    """Raise `ActionError(invalid_input)` for a step whose action does not exist, or is not for workflows."""
    for step in definition.steps:
        if not isinstance(step, ActionStep):
            continue
        service, _, name = step.action.partition(".")
        action = ctx.find_action(service, name)
        if isinstance(action, ActionError):
            reason = f"there is no action {step.action}{hint(action.details['nearest'])}"
        elif service == STEPS_SERVICE:
            reason = f"{step.action} advances runs, and cannot be a step"
        elif action.allowed_actors is not None and "workflow" not in action.allowed_actors:
            reason = f"{step.action} is only for {', '.join(sorted(action.allowed_actors))} actors"
        else:
            continue
        fields = [{"path": f"definition.steps.{step.name}.action", "reason": reason, "type": "action"}]
        raise ActionError(
            ErrorCode.INVALID_INPUT, f"the definition: the step {step.name!r}: {reason}", {"fields": fields}
        )

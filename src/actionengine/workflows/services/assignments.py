"""The service `workflow_assignments`: the assignments that workflows give to people, and their completion."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import ValidationError
from returns.result import Result, Success

from actionengine.actions import Service, create_service
from actionengine.builtin.declarations import declare
from actionengine.errors import ActionError, ErrorCode, conflict, not_found
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.plan import sync_and_async
from actionengine.schemas.field_errors import field_errors, summarize
from actionengine.storage.rows import Record
from actionengine.workflows.models import AssignmentReference, AssignmentView, CompleteAssignment, ListAssignments
from actionengine.workflows.permissions import PEOPLE_AND_AGENTS, WorkflowPermissions
from actionengine.workflows.runs.events import WORKFLOW_ASSIGNMENT_COMPLETED, AssignmentCompleted
from actionengine.workflows.runs.run import RunStepper
from actionengine.workflows.runs.step_handlers import ASSIGNMENTS, StepResult
from actionengine.workflows.runs.store import open_store, run_subject, timestamp


@sync_and_async
async def _complete(data: CompleteAssignment, ctx: InternalContext) -> Result[AssignmentView, ActionError]:
    record = await _found(ctx, data.assignment_id)
    status = record.data.get("status")
    if status in ("completed", "cancelled"):
        raise conflict(f"the assignment {record.id} is {status} already", status=status)
    done = {
        "status": "completed",
        "result": data.result,
        "completed_by": str(ctx.actor),
        "completed_at": await timestamp(ctx),
    }
    record = replace(record, data={**record.data, **done})
    view = _view(record)
    await ctx.async_records(ASSIGNMENTS).update(record.id, record.data, record.version)
    subject = run_subject(record.data["run_id"])
    ctx.add_subject(subject)
    ctx.emit(
        WORKFLOW_ASSIGNMENT_COMPLETED,
        AssignmentCompleted.model_validate({"id": record.id, **record.data}),
        subject=subject,
    )
    await _continue_run(ctx, record)
    return Success(view)


async def _continue_run(ctx: InternalContext, assignment: Record) -> None:
    """Continue the run that waits for an assignment. Its completion is the step."""
    store = open_store(ctx)
    run = await store.runs.get(assignment.data["run_id"])
    if run is None or run.data["assignment_id"] != assignment.id:
        return
    stepper = RunStepper(ctx, store, run, await store.definition(run))
    output = {name: assignment.data[name] for name in ("assignee", "title", "result", "completed_by", "completed_at")}
    await stepper.advance(StepResult({"id": assignment.id, **output}), resumes=True)


@sync_and_async
async def _get(data: AssignmentReference, ctx: InternalContext) -> Result[AssignmentView, ActionError]:
    return Success(_view(await _found(ctx, data.assignment_id)))


@sync_and_async
async def _list(data: ListAssignments, ctx: InternalContext) -> Result[tuple[AssignmentView, ...], ActionError]:
    found: list[AssignmentView] = []
    after = data.after
    while len(found) < data.limit:
        page = await ctx.async_records(ASSIGNMENTS).list(data.filter(), data.limit, after, data.newest_first)
        found.extend(view for view, _ in map(_read, page) if view is not None)
        # A page of large documents is short, and then enough.
        if page.next is None or (found and len(page) < data.limit):
            break
        after = page.next
    listed = tuple(found[: data.limit])
    ctx.set_logged_output({"count": len(listed)})
    return Success(listed)


async def _found(ctx: InternalContext, id: str) -> Record:
    record = await ctx.async_records(ASSIGNMENTS).get(id)
    if record is None:
        raise not_found("assignment", id)
    return record


def _view(record: Record) -> AssignmentView:
    view, wrong = _read(record)
    if view is None:
        raise ActionError(
            ErrorCode.UNPROCESSABLE,
            f"the document {ASSIGNMENTS}/{record.id} is not a valid assignment: {summarize(wrong)}: correct it",
            {"id": record.id, "fields": wrong},
        )
    return view


def _read(record: Record) -> tuple[AssignmentView | None, list[dict[str, str]]]:
    """Return an assignment, or the errors of its document, which the host may have changed."""
    fields = {**record.data, "id": record.id, "created_at": record.created_at}
    try:
        return AssignmentView.model_validate(fields), []
    except ValidationError as error:
        return None, field_errors(error)


def _subject(data: Any) -> str:
    return f"{ASSIGNMENTS}/{data.assignment_id}"


def assignments_service(permissions: WorkflowPermissions) -> Service:
    """Return the service, whose actions ask for these permissions."""
    reading = partial(declare, permission=permissions.read, read_only=True)
    return create_service(
        name="workflow_assignments",
        description="The assignments that workflows give to people",
        actions=[
            reading("list", "Assignments, oldest first unless asked otherwise", _list, ListAssignments),
            reading("get", "One assignment", _get, AssignmentReference, resource=_subject),
            declare(
                "complete",
                "Complete an assignment with its result; a run that waits for it continues",
                _complete,
                CompleteAssignment,
                permission=permissions.complete,
                allowed_actors=PEOPLE_AND_AGENTS,
                resource=_subject,
            ),
        ],
    )

"""The handlers of the types of steps. Each returns the output of the step, and the step that it leads to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from pydantic_core import to_json
from returns.result import Failure

from actionengine.action_context import ActionContext
from actionengine.actions import ApprovalPolicy
from actionengine.conditions.conditions import evaluate
from actionengine.conditions.templates import render
from actionengine.errors import ActionError, ErrorCode, conflict, not_found
from actionengine.pipeline.internal_context import InternalContext
from actionengine.storage.errors import SerializationFailure
from actionengine.storage.records import AsyncRecords
from actionengine.storage.rows import Record
from actionengine.text.names import nfc
from actionengine.workflows.definitions.steps import (
    ActionStep,
    ApprovalStep,
    AssignmentStep,
    DecisionStep,
    NotificationStep,
    RecordLockStep,
    RecordMutationStep,
    Step,
)
from actionengine.workflows.runs.events import WORKFLOW_ASSIGNED, WORKFLOW_NOTIFICATION, Assignment, Notification
from actionengine.workflows.runs.store import (
    Store,
    insert_once,
    is_in_force,
    lock_id,
    principal_of,
    run_subject,
    workflow_subject,
)

ASSIGNMENTS = "workflow_assignments"
"""The collection of the assignments of workflows. The host may read and change it."""

MAX_MESSAGE_LENGTH = 10_000
"""Characters of the message of an approval step."""


class StepContext(NamedTuple):
    """The action, the run and the values with which a step is performed."""

    ctx: InternalContext
    store: Store
    run: Record
    scope: Mapping[str, Any]

    def records(self, collection: str) -> AsyncRecords:
        """Return a collection of the host, behind the guards of its documents."""
        return self.ctx.async_records(collection)

    @property
    def key(self) -> str:
        """The workflow's key."""
        key: str = self.run.data["workflow_key"]
        return key

    def render(self, value: Any) -> Any:
        """Return a value with its references filled in."""
        return render(value, self.scope)

    def render_text(self, text: str) -> str:
        """Return a text with its references filled in."""
        return _text(render(text, self.scope))


class StepResult(NamedTuple):
    """The result of a step.

    `next` is the step that it leads to, if that is not the following one. `locked` and `released` are the lock that it
    took or released. `assignment_id` is the assignment that the run waits for.
    """

    output: Any
    next: str | None = None
    locked: str | None = None
    released: str | None = None
    assignment_id: str | None = None


async def perform(context: StepContext, step: Step, records: str | None = None) -> StepResult:
    """Perform a step. Raise the `ActionError` that it fails with.

    If `records` is a permission, a step that changes documents asks for `<records>.<collection>.<operation>`.
    """
    if records is not None and isinstance(step, RecordMutationStep | RecordLockStep):
        await context.ctx.authorize_async(f"{records}.{step.collection}.{step.operation}")
    return await _HANDLERS[step.type](context, step)


def run_scope(run: Record) -> dict[str, Any]:
    """Return the values that references in a run's steps read."""
    data = run.data
    members = {"id": run.id, "workflow": data["workflow_key"], "started_by": data["started_by"]}
    return {"input": data["input"], "steps": data["outputs"], "run": members}


def initiators(run: Record) -> frozenset[str]:
    """Return the actors that started a run, or a run that led to it, and those for whom they did."""
    principal = principal_of(run)
    return frozenset((run.data["started_by"], *run.data["ancestors"], *(principal.names if principal else ())))


def excluded_approvers(run: Record, step: Step) -> dict[str, str]:
    """Return the actors that may not approve a step or its action, each with the reason: they started the run, so it
    would be an approval of their own request."""
    if isinstance(step, ApprovalStep) and step.by_starter:
        return {}
    return dict.fromkeys(initiators(run), f"started the run {run.id}")


def description(run: Record, step: Step) -> str:
    """Return the description of a step for the action log and for approvers."""
    if isinstance(step, ApprovalStep):
        try:
            return _message(step, run_scope(run))
        except ActionError:
            # The step fails with this error when it is performed.
            return step.message
    suffix = f" ({step.action})" if isinstance(step, ActionStep) else ""
    return f"workflow {run.data['workflow_key']}, run {run.id}, step {step.name}{suffix}"


async def _action(context: StepContext, step: ActionStep) -> StepResult:
    service, _, action = step.action.partition(".")
    answer = await context.ctx.execute_action(service, action, context.render(step.input))
    if isinstance(answer, Failure):
        raise answer.failure()
    return StepResult(context.ctx.to_log_json(service, action, answer.unwrap()))


async def _assignment(context: StepContext, step: AssignmentStep) -> StepResult:
    given = {
        "assignee": context.render_text(step.assignee),
        "title": context.render_text(step.title),
        "details": context.render(step.details),
        "run_id": context.run.id,
        "workflow_key": context.key,
        "step": step.name,
    }
    open_assignment = {"status": "open", "result": None, "completed_by": None, "completed_at": None}
    record = await context.records(ASSIGNMENTS).insert({**given, **open_assignment})
    payload = Assignment(id=record.id, assigned_at=record.created_at, **given)
    context.ctx.emit(WORKFLOW_ASSIGNED, payload, subject=run_subject(context.run.id))
    output = {"id": record.id, "assignee": given["assignee"], "title": given["title"]}
    return StepResult(output, assignment_id=record.id if step.wait else None)


async def _approval(context: StepContext, step: ApprovalStep) -> StepResult:
    policy = f"workflows.{context.key}.{step.name}"
    approved = context.ctx.approved
    if approved is None or policy not in approved.granted:
        _message(step, context.scope)
        wanted = ApprovalPolicy(_always, step.permission, timedelta(seconds=step.expires_after))
        raise context.ctx.approval_needed(policy, wanted, workflow_subject(context.key))
    output = {
        "approved_by": approved.approved_by,
        "approval_id": approved.approval_id,
        "approved_at": (await context.ctx.unit_of_work.now()).isoformat(),
    }
    return StepResult(output)


async def _notification(context: StepContext, step: NotificationStep) -> StepResult:
    to = context.render(step.to)
    payload = Notification(
        run_id=context.run.id,
        workflow_key=context.key,
        step=step.name,
        to=tuple(map(_text, to if isinstance(to, list) else [to])),
        message=context.render_text(step.message),
        subject=context.render_text(step.subject),
        channel=context.render_text(step.channel),
        data=context.render(step.data),
    )
    context.ctx.emit(WORKFLOW_NOTIFICATION, payload, subject=run_subject(context.run.id))
    return StepResult({})


async def _decision(context: StepContext, step: DecisionStep) -> StepResult:
    holding = (branch.next for branch in step.branches if evaluate(branch.when, context.scope))
    target = next(holding, step.otherwise)
    return StepResult({"next": target}, target)


async def _mutation(context: StepContext, step: RecordMutationStep) -> StepResult:
    records = context.records(step.collection)
    id = None if step.id is None else context.render_text(step.id)
    data = None if step.data is None else context.render(step.data)
    if step.operation == "insert":
        assert data is not None
        return _to_result(await records.insert(data, id))
    assert id is not None
    before = await _existing(records, step.collection, id)
    if step.operation == "delete":
        await records.delete(id, before.version)
        return _to_result(before)
    kept = _without(before.data, step.drop)
    return _to_result(await records.update(id, {**kept, **(data or {})}, before.version))


def _without(document: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a document without these fields. A missing one may have another form of Unicode there."""
    others = {nfc(name) for name in names if name not in document}
    return {name: value for name, value in document.items() if name not in names and nfc(name) not in others}


async def _lock(context: StepContext, step: RecordLockStep) -> StepResult:
    id = context.render_text(step.id)
    key = lock_id(step.collection, id)
    locks, run_id = context.store.locks, context.run.id
    held = await locks.get(key)
    if step.operation == "release":
        if held is not None and held.data["run_id"] == run_id:
            await locks.delete(key, held.version)
        return StepResult({"collection": step.collection, "id": id, "version": None}, released=key)
    now = await context.ctx.unit_of_work.now()
    if held is not None and held.data["run_id"] != run_id and is_in_force(held, now):
        raise conflict(f"the workflow run {held.data['run_id']} has locked {key}", collection=step.collection, id=id)
    # A new version of the document makes writers that read it before the lock fail. The update comes first: if it is
    # refused, there is no lock to release.
    records = context.records(step.collection)
    before = await _existing(records, step.collection, id)
    record = await records.update(id, before.data, before.version)
    until = await context.ctx.unit_of_work.now() + timedelta(seconds=step.expires_after)
    document = {"run_id": run_id, "expires_at": until.isoformat()}
    if held is not None:
        await locks.update(key, document, held.version)
    elif not await insert_once(locks, document, key):
        raise SerializationFailure(f"another run locks {key} at the same time: run the step again")
    return StepResult({"collection": step.collection, "id": id, "version": record.version}, locked=key)


async def _existing(records: AsyncRecords, collection: str, id: str) -> Record:
    record = await records.get(id)
    if record is None:
        raise not_found(f"document in {collection!r}", id, collection=collection)
    return record


def _to_result(record: Record) -> StepResult:
    return StepResult({"id": record.id, "version": record.version, "data": record.data})


def _message(step: ApprovalStep, scope: Mapping[str, Any]) -> str:
    """Return the message to approvers. It is never shortened: a long input could hide the rest of it."""
    text = _text(render(step.message, scope))
    if len(text) > MAX_MESSAGE_LENGTH:
        message = f"the message to approvers has {len(text)} characters; at most {MAX_MESSAGE_LENGTH} are allowed"
        raise ActionError(ErrorCode.UNPROCESSABLE, message)
    return text


def _always(data: Any, ctx: ActionContext) -> bool:
    return True


def _text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value).decode()


_HANDLERS: Mapping[str, Callable[[StepContext, Any], Awaitable[StepResult]]] = {
    "action": _action,
    "assignment": _assignment,
    "approval": _approval,
    "notification": _notification,
    "decision": _decision,
    "record_mutation": _mutation,
    "record_lock": _lock,
}

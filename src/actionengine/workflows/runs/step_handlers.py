"""What each type of step does, inside the action that performs it: it gives the step's output, and where to go."""

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
from actionengine.context import identity_of
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
from actionengine.workflows.runs.events import ASSIGNED, NOTIFICATION, Assignment, Notification
from actionengine.workflows.runs.store import Store, insert_once, is_in_force, lock_id, run_subject, workflow_subject

ASSIGNMENTS = "workflow_assignments"
"""The collection of what workflows have given people to do; the host's to read and to change."""

MAX_MESSAGE_LENGTH = 10_000
"""Characters of what an approval step tells approvers."""


class StepContext(NamedTuple):
    """What a step is performed with."""

    ctx: InternalContext
    store: Store
    run: Record
    scope: Mapping[str, Any]

    def records(self, collection: str) -> AsyncRecords:
        """A collection of the host's, with what guards its documents."""
        return self.ctx.async_records(collection)

    @property
    def key(self) -> str:
        """The workflow's key."""
        key: str = self.run.data["workflow_key"]
        return key


class StepResult(NamedTuple):
    """What came of a step: its output; `next`, the step that it leads to, where that is not the following one; the lock
    that it took, or gave up; the assignment that the run has to wait for."""

    output: Any
    next: str | None = None
    locked: str | None = None
    released: str | None = None
    assignment_id: str | None = None


async def perform(scene: StepContext, step: Step, records: str | None = None) -> StepResult:
    """Do what a step says. Raises `ActionError` with what it fails with.

    Where `records` is a permission, what the step does to documents asks for it: `<records>.<collection>.<operation>`.
    """
    _check_approver(scene, step)
    if records is not None and isinstance(step, RecordMutationStep | RecordLockStep):
        await scene.ctx.authorize_async(f"{records}.{step.collection}.{step.operation}")
    return await _PERFORM[step.type](scene, step)


def run_scope(run: Record) -> dict[str, Any]:
    """What references of a run's steps look into."""
    data = run.data
    about = {"id": run.id, "workflow": data["workflow_key"], "started_by": data["started_by"]}
    return {"input": data["input"], "steps": data["outputs"], "run": about}


def initiators(run: Record) -> frozenset[str]:
    """Whoever has had a run started: by itself, or by a run that started this one."""
    return frozenset((run.data["started_by"], *run.data["ancestors"]))


def description(run: Record, step: Step) -> str:
    """What the action log says of a step, and whoever is to approve it."""
    if isinstance(step, ApprovalStep):
        try:
            return _message(step, run_scope(run))
        except ActionError:
            # It is told when the step is performed.
            return step.message
    does = f" ({step.action})" if isinstance(step, ActionStep) else ""
    return f"workflow {run.data['workflow_key']}, run {run.id}, step {step.name}{does}"


def _check_approver(scene: StepContext, step: Step) -> None:
    """Whoever has started a run does not grant what it asks for, be it a step or the policy of an action: that would
    have them approve what they ask for themselves."""
    approved = scene.ctx.approved
    if approved is None or (isinstance(step, ApprovalStep) and step.by_starter):
        return
    if identity_of(approved.approved_by) in map(identity_of, initiators(scene.run)):
        raise ActionError(
            ErrorCode.FORBIDDEN,
            f"{approved.approved_by} has started the run {scene.run.id}: somebody else must decide",
            {"run_id": scene.run.id},
        )


async def _action(scene: StepContext, step: ActionStep) -> StepResult:
    service, _, action = step.action.partition(".")
    answer = await scene.ctx.execute_action(service, action, render(step.input, scene.scope))
    if isinstance(answer, Failure):
        raise answer.failure()
    return StepResult(scene.ctx.to_log_json(service, action, answer.unwrap()))


async def _assignment(scene: StepContext, step: AssignmentStep) -> StepResult:
    assignee, title = _text(render(step.assignee, scene.scope)), _text(render(step.title, scene.scope))
    details = render(step.details, scene.scope)
    document = {
        "assignee": assignee,
        "title": title,
        "details": details,
        "run_id": scene.run.id,
        "workflow_key": scene.key,
        "step": step.name,
        "status": "open",
        "result": None,
        "completed_by": None,
        "completed_at": None,
    }
    record = await scene.records(ASSIGNMENTS).insert(document)
    scene.ctx.emit(
        ASSIGNED,
        Assignment(
            id=record.id,
            run_id=scene.run.id,
            workflow_key=scene.key,
            step=step.name,
            assignee=assignee,
            title=title,
            details=details,
            assigned_at=record.created_at,
        ),
        subject=run_subject(scene.run.id),
    )
    output = {"id": record.id, "assignee": assignee, "title": title}
    return StepResult(output, assignment_id=record.id if step.wait else None)


async def _approval(scene: StepContext, step: ApprovalStep) -> StepResult:
    policy = f"workflows.{scene.key}.{step.name}"
    approved = scene.ctx.approved
    if approved is None or policy not in approved.granted:
        _message(step, scene.scope)
        wanted = ApprovalPolicy(_always, step.permission, timedelta(seconds=step.expires_after))
        raise scene.ctx.approval_needed(policy, wanted, workflow_subject(scene.key))
    output = {
        "approved_by": approved.approved_by,
        "approval_id": approved.approval_id,
        "approved_at": (await scene.ctx.unit_of_work.now()).isoformat(),
    }
    return StepResult(output)


async def _notification(scene: StepContext, step: NotificationStep) -> StepResult:
    to = render(step.to, scene.scope)
    payload = Notification(
        run_id=scene.run.id,
        workflow_key=scene.key,
        step=step.name,
        to=tuple(map(_text, to if isinstance(to, list) else [to])),
        message=_text(render(step.message, scene.scope)),
        subject=_text(render(step.subject, scene.scope)),
        channel=_text(render(step.channel, scene.scope)),
        data=render(step.data, scene.scope),
    )
    scene.ctx.emit(NOTIFICATION, payload, subject=run_subject(scene.run.id))
    return StepResult({})


async def _decision(scene: StepContext, step: DecisionStep) -> StepResult:
    for branch in step.branches:
        if evaluate(branch.when, scene.scope):
            return StepResult({"next": branch.next}, branch.next)
    return StepResult({"next": step.otherwise}, step.otherwise)


async def _mutation(scene: StepContext, step: RecordMutationStep) -> StepResult:
    records = scene.records(step.collection)
    id = None if step.id is None else _text(render(step.id, scene.scope))
    data = None if step.data is None else render(step.data, scene.scope)
    if step.operation == "insert":
        assert data is not None
        return _of_record(await records.insert(data, id))
    assert id is not None
    before = await _existing(records, step.collection, id)
    if step.operation == "delete":
        await records.delete(id, before.version)
        return StepResult({"id": id, "version": before.version, "data": before.data})
    kept = _without(before.data, step.drop)
    return _of_record(await records.update(id, {**kept, **(data or {})}, before.version))


def _without(document: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a document without these fields. One that it does not have may be there in another form of Unicode."""
    others = {nfc(name) for name in names if name not in document}
    return {name: value for name, value in document.items() if name not in names and nfc(name) not in others}


async def _lock(scene: StepContext, step: RecordLockStep) -> StepResult:
    id = _text(render(step.id, scene.scope))
    key = lock_id(step.collection, id)
    locks, run_id = scene.store.locks, scene.run.id
    held = await locks.get(key)
    if step.operation == "release":
        if held is not None and held.data["run_id"] == run_id:
            await locks.delete(key, held.version)
        return StepResult({"collection": step.collection, "id": id, "version": None}, released=key)
    now = await scene.ctx.unit_of_work.now()
    if held is not None and held.data["run_id"] != run_id and is_in_force(held, now):
        raise conflict(f"the workflow run {held.data['run_id']} has locked {key}", collection=step.collection, id=id)
    # A new version, so that whoever has read the document before does not write it any more. It comes first: where it
    # is refused, there is no lock to take back.
    records = scene.records(step.collection)
    before = await _existing(records, step.collection, id)
    record = await records.update(id, before.data, before.version)
    until = await scene.ctx.unit_of_work.now() + timedelta(seconds=step.expires_after)
    document = {"run_id": run_id, "expires_at": until.isoformat()}
    if held is not None:
        await locks.update(key, document, held.version)
    elif not await insert_once(locks, document, key):
        raise SerializationFailure(f"{key} is being locked by another run")
    return StepResult({"collection": step.collection, "id": id, "version": record.version}, locked=key)


async def _existing(records: AsyncRecords, collection: str, id: str) -> Record:
    record = await records.get(id)
    if record is None:
        raise not_found(f"document in {collection!r}", id, collection=collection)
    return record


def _of_record(record: Record) -> StepResult:
    return StepResult({"id": record.id, "version": record.version, "data": record.data})


def _message(step: ApprovalStep, scope: Mapping[str, Any]) -> str:
    """What an approver reads: all of it, so that an input cannot push anything out of sight."""
    text = _text(render(step.message, scope))
    if len(text) > MAX_MESSAGE_LENGTH:
        raise ActionError(
            ErrorCode.UNPROCESSABLE, f"the message to approvers has more than {MAX_MESSAGE_LENGTH} characters"
        )
    return text


def _always(data: Any, ctx: ActionContext) -> bool:
    return True


def _text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value).decode()


_PERFORM: Mapping[str, Callable[[StepContext, Any], Awaitable[StepResult]]] = {
    "action": _action,
    "assignment": _assignment,
    "approval": _approval,
    "notification": _notification,
    "decision": _decision,
    "record_mutation": _mutation,
    "record_lock": _lock,
}

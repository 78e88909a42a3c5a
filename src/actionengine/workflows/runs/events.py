"""The events of workflows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from actionengine.builtin.causes import RUN_STARTED
from actionengine.event_types import create_event_type
from actionengine.pipeline.internal_context import InternalContext
from actionengine.schemas.models import Output
from actionengine.storage.rows import Record
from actionengine.workflows.models import RunStatus, StepStatus
from actionengine.workflows.runs.store import run_subject


class _RunPayload(Output):
    run_id: str
    workflow_key: str


class RunStarted(_RunPayload):
    """The payload of `workflows.started`. `dispatch` counts the executions of the run."""

    dispatch: int


class RunResumed(RunStarted):
    """The payload of `workflows.resumed`."""


class StepCompleted(_RunPayload):
    """The payload of `workflows.step_completed`."""

    position: int
    step: str
    type: str
    status: StepStatus
    next: str | None
    run_status: RunStatus


class RunEnded(_RunPayload):
    """The payload of `workflows.ended`: `succeeded`, `failed` or `cancelled`. `approval_id` is the approval that a
    cancelled run waited for."""

    status: RunStatus
    error: dict[str, Any] | None
    approval_id: str | None = None


class RunPaused(_RunPayload):
    """The payload of `workflows.paused`: a run waits for an approval or an assignment, or its step has failed."""

    step: str
    approval_id: str | None
    assignment_id: str | None
    error: dict[str, Any] | None


class RunsPurged(Output):
    """The payload of `workflows.purged`."""

    run_ids: tuple[str, ...]


class Notification(_RunPayload):
    """The payload of `workflows.notification`."""

    step: str
    to: tuple[str, ...]
    message: str
    subject: str
    channel: str
    data: dict[str, Any]


class _AssignmentPayload(Output):
    id: str
    run_id: str
    workflow_key: str
    step: str
    assignee: str
    title: str


class Assignment(_AssignmentPayload):
    """The payload of `workflows.assigned`. `id` is that of the document in `workflow_assignments`."""

    details: dict[str, Any]
    assigned_at: datetime


class AssignmentCompleted(_AssignmentPayload):
    """The payload of `workflows.assignment_completed`."""

    result: dict[str, Any]
    completed_by: str
    completed_at: datetime


class TriggerChanged(Output):
    """The payload of `triggers.changed`. `schedule` and `timezone` are None unless an active schedule has them."""

    trigger_id: str
    workflow_key: str
    schedule: str | None
    timezone: str | None


WORKFLOW_STARTED = create_event_type(type=RUN_STARTED, payload=RunStarted)
WORKFLOW_RESUMED = create_event_type(type="workflows.resumed", payload=RunResumed)
WORKFLOW_STEP_COMPLETED = create_event_type(type="workflows.step_completed", payload=StepCompleted)
WORKFLOW_PAUSED = create_event_type(type="workflows.paused", payload=RunPaused)
WORKFLOW_ENDED = create_event_type(type="workflows.ended", payload=RunEnded)
WORKFLOW_PURGED = create_event_type(type="workflows.purged", payload=RunsPurged)
WORKFLOW_NOTIFICATION = create_event_type(type="workflows.notification", payload=Notification)
WORKFLOW_ASSIGNED = create_event_type(type="workflows.assigned", payload=Assignment)
WORKFLOW_ASSIGNMENT_COMPLETED = create_event_type(type="workflows.assignment_completed", payload=AssignmentCompleted)
TRIGGER_CHANGED = create_event_type(type="triggers.changed", payload=TriggerChanged)

REFUSALS = ("approvals.reject", "approvals.cancel")
CONTROL = frozenset(
    {WORKFLOW_STARTED.type, WORKFLOW_RESUMED.type, TRIGGER_CHANGED.type, "approvals.approve", *REFUSALS}
)
"""Types of the events that continue runs. They have their own queue."""


def emit_run_started(ctx: InternalContext, run: Record, first: bool = False) -> None:
    """Emit the event that enqueues a run once this transaction commits."""
    payload = (RunStarted if first else RunResumed).model_validate({"run_id": run.id, **run.data})
    ctx.emit(WORKFLOW_STARTED if first else WORKFLOW_RESUMED, payload, subject=run_subject(run.id))


def emit_run_ended(ctx: InternalContext, run: Record, approval_id: str | None = None) -> None:
    """Emit the end of a run, with the approval that it waited for."""
    payload = RunEnded.model_validate({"run_id": run.id, **run.data, "approval_id": approval_id})
    ctx.emit(WORKFLOW_ENDED, payload, subject=run_subject(run.id))

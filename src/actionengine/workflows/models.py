"""What the services of workflows take and give."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from actionengine.schemas.models import Description, Id, Input, Name, Output, Page, Title
from actionengine.workflows.definitions.steps import Text

WorkflowStatus = Literal["draft", "active", "retired"]
RunStatus = Literal["running", "paused", "succeeded", "failed", "cancelled"]
StepStatus = Literal["succeeded", "failed", "rejected"]
PausedFor = Literal["approval", "assignment", "failure"]
TriggerStatus = Literal["active", "disabled"]


def _key(key: str) -> str:
    if "/" in key or "." in key:
        raise ValueError("the key of a workflow has no dot and no slash in it")
    return key


Key = Annotated[Name, AfterValidator(_key)]


def _given(**wanted: str | None) -> dict[str, str]:
    return {name: value for name, value in wanted.items() if value is not None}


# Definitions


class DefineWorkflow(Input):
    """A new version of a workflow, a draft. `name` is its key where none is given."""

    key: Key
    name: Title | None = None
    description: Description = ""
    definition: dict[str, JsonValue]


class WorkflowVersion(Input):
    """One version of a workflow; the newest where none is named."""

    key: Key
    version: int | None = Field(default=None, ge=1)


class ListWorkflows(Page):
    """The newest version of each workflow, by key: `after` is a key."""


class Workflow(Output):
    """One version of a workflow. Its definition never changes."""

    key: str
    version: int
    name: str
    description: str
    status: WorkflowStatus
    definition: dict[str, Any]
    defined_by: str
    created_at: datetime


# Runs


class StartRun(Input):
    """A run of the active version of a workflow."""

    key: Key
    input: dict[str, JsonValue] = Field(default_factory=dict)


class RunReference(Input):
    """One run."""

    run_id: Id


class CancelRun(Input):
    """One run, and why it is to end."""

    run_id: Id
    reason: str | None = Field(default=None, max_length=2000)


class ListRuns(Page):
    """Runs, by id, oldest first unless asked otherwise; of a workflow, or of a status, or all."""

    key: Key | None = None
    status: RunStatus | None = None
    newest_first: bool = False

    def filter(self) -> dict[str, str]:
        """What documents have to have."""
        return _given(workflow_key=self.key, status=self.status)


class PurgeRuns(Input):
    """Runs that have ended before a time, and the steps that they have taken: up to `limit` runs at once."""

    ended_before: AwareDatetime
    limit: int = Field(default=100, ge=1, le=1000)


class Purged(Output):
    """How many runs were removed, and whether there are more."""

    runs: int
    has_more: bool


class RunSummary(Output):
    """A run without its steps.

    `step` is where it is: the step that comes next, or the one that it is paused at; None once it has ended. `position`
    counts the steps that it has taken. `error` says why it is paused or has failed.
    """

    id: str
    workflow_key: str
    workflow_version: int
    status: RunStatus
    step: str | None
    position: int
    paused_for: PausedFor | None
    approval_id: str | None
    assignment_id: str | None
    error: dict[str, Any] | None
    input: dict[str, Any]
    started_by: str
    trigger_id: str | None
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None


class StepRecord(Output):
    """A step that a run has taken. `action_id` is the execution's in the action log."""

    position: int
    step: str
    type: str
    status: StepStatus
    output: Any
    error: dict[str, Any] | None
    action_id: str
    ended_at: datetime


class Run(RunSummary):
    """A run with the steps that it has taken, in their order (the newest thousand)."""

    steps: tuple[StepRecord, ...]


# Assignments


class AssignmentReference(Input):
    """One assignment."""

    assignment_id: Id


class CompleteAssignment(AssignmentReference):
    """What is done, and what has come of it: `result` is what later steps refer to, where the run waits for it."""

    result: dict[str, JsonValue] = Field(default_factory=dict)


class ListAssignments(Page):
    """Assignments, by id, oldest first unless asked otherwise; each field that is given has to match."""

    assignee: Text | None = None
    status: Text | None = None
    run_id: Id | None = None
    key: Key | None = None
    newest_first: bool = False

    def filter(self) -> dict[str, str]:
        """What documents have to have."""
        return _given(assignee=self.assignee, status=self.status, run_id=self.run_id, workflow_key=self.key)


class AssignmentView(Output):
    """What somebody is to do, or has done. `status` is `open`, `completed`, or `cancelled` with a run that waited for
    it; or what the host says, whose collection it is."""

    id: str
    assignee: str
    title: str
    details: dict[str, Any]
    run_id: str = Field(max_length=200)
    workflow_key: str
    step: str
    status: str
    result: dict[str, Any] | None = None
    completed_by: str | None = None
    completed_at: datetime | None = None
    created_at: datetime


# Triggers


class CreateTrigger(Input):
    """What starts runs of a workflow: `{"type": "event", …}` or `{"type": "schedule", …}`."""

    key: Key
    trigger: dict[str, JsonValue]


class TriggerReference(Input):
    """One trigger."""

    trigger_id: Id


class ListTriggers(Page):
    """Triggers, by id; of a workflow, or all."""

    key: Key | None = None


class TriggerView(Output):
    """A trigger. `from_definition` says that it came with its workflow, whose next version says what it
    waits for."""

    id: str
    workflow_key: str
    status: TriggerStatus
    trigger: dict[str, Any]
    from_definition: bool
    created_at: datetime
    updated_at: datetime


# What steps tell each other


class RunCursor(BaseModel):
    """Where a run is, for its driver. `dispatch` counts how often it was set going, `description` is what its step is
    for, and `approval_id` what the run waits for."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    workflow_key: str
    status: RunStatus
    step: str | None
    position: int
    dispatch: int
    retry_attempts: int = 1
    retry_seconds: float = 0.0
    description: str | None = None
    approval_id: str | None = None

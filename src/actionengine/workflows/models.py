"""Inputs and outputs of the services of workflows."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, Field, JsonValue

from actionengine.schemas.json_schemas import SchemaExtra, SchemaOf
from actionengine.schemas.models import Description, Id, Input, Name, Output, Page, Title
from actionengine.workflows.definitions.definition import Definition
from actionengine.workflows.definitions.steps import Text
from actionengine.workflows.definitions.triggers import Trigger

WorkflowStatus = Literal["draft", "active", "retired"]
RunStatus = Literal["running", "paused", "succeeded", "failed", "cancelled"]
StepStatus = Literal["succeeded", "failed", "rejected"]
PausedFor = Literal["approval", "assignment", "failure"]
TriggerStatus = Literal["active", "disabled"]


def _key(key: str) -> str:
    if "/" in key or "." in key:
        raise ValueError("the key of a workflow has no dot and no slash in it")
    return key


Key = Annotated[
    Name,
    AfterValidator(_key),
    SchemaExtra(pattern=r"^[^\s./]+( [^\s./]+)*$"),
    Field(description="The key of the workflow, without a dot and a slash."),
]
RunId = Annotated[Id, Field(description="The id of the run.")]
_OF_WORKFLOW = "Only those of the workflow with this key; null for all."


def _given(**wanted: str | None) -> dict[str, str]:
    return {name: value for name, value in wanted.items() if value is not None}


# Definitions


class DefineWorkflow(Input):
    """A new version of a workflow, a draft. `name` is its key by default."""

    key: Key
    name: Title | None = Field(default=None, description="The name of the workflow; by default its key.")
    description: Description = Field(default="", description="The purpose of the workflow.")
    definition: Annotated[dict[str, JsonValue], SchemaOf(Definition)] = Field(
        description="The steps of the workflow, with its input and its trigger. It is also checked that each step is "
        "reached, that each cycle ends, and that references name what comes before them."
    )


class WorkflowVersion(Input):
    """One version of a workflow, by default the newest."""

    key: Key
    version: int | None = Field(default=None, ge=1, description="The version; null for the newest.")


class ListWorkflows(Page):
    """The newest version of each workflow, by key. `after` is a key."""


class Workflow(Output):
    """One version of a workflow. Its definition never changes."""

    key: str
    version: int
    name: str
    description: str
    status: WorkflowStatus
    definition: Annotated[dict[str, Any], SchemaOf(Definition)]
    defined_by: str
    created_at: datetime


# Runs


class StartRun(Input):
    """A run of the active version of a workflow."""

    key: Key
    input: dict[str, JsonValue] = Field(
        default_factory=dict, description="The input of the run: the fields that the workflow's definition lists."
    )


class RunReference(Input):
    """One run."""

    run_id: RunId


class CancelRun(Input):
    """One run, and the reason for its end."""

    run_id: RunId
    reason: str | None = Field(default=None, max_length=2000, description="The reason for the end of the run.")


class ListRuns(Page):
    """Runs by id: all, or those of a workflow or a status."""

    key: Key | None = Field(default=None, description=_OF_WORKFLOW)
    status: RunStatus | None = Field(default=None, description="Only runs of this status; null for all.")
    newest_first: bool = Field(default=False, description="Whether the newest run comes first.")

    def filter(self) -> dict[str, str]:
        """Return the fields that documents have to match."""
        return _given(workflow_key=self.key, status=self.status)


class PurgeRuns(Input):
    """Runs that ended before a time, and their steps: at most `limit` runs at once."""

    ended_before: AwareDatetime = Field(description="The time before which the runs ended, in ISO 8601 with an offset.")
    limit: int = Field(default=100, ge=1, le=1000, description="The most runs to remove.")


class Purged(Output):
    """The number of removed runs, and whether there are more."""

    runs: int
    has_more: bool


class RunSummary(Output):
    """A run without its steps.

    `step` is the one that comes next, or that the run is paused at; None once it has ended. `position` is the number of
    steps that it has taken. `error` is the reason for which it is paused or has failed. `on_behalf_of` names the actors
    for whom the workflow acts (`type:id`), the nearest first: a starter that acts for others, and these.
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
    on_behalf_of: tuple[str, ...] = ()
    trigger_id: str | None
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None


class StepRecord(Output):
    """A step that a run has taken. `action_id` is its execution in the action log."""

    position: int
    step: str
    type: str
    status: StepStatus
    output: Any
    error: dict[str, Any] | None
    action_id: str
    ended_at: datetime


class Run(RunSummary):
    """A run with its steps in their order; of more than a thousand, the newest thousand."""

    steps: tuple[StepRecord, ...]


# Assignments


class AssignmentReference(Input):
    """One assignment."""

    assignment_id: Id = Field(description="The id of the assignment.")


class CompleteAssignment(AssignmentReference):
    """A completed assignment and its result. If the run waits for it, later steps can read `result`."""

    result: dict[str, JsonValue] = Field(
        default_factory=dict, description="The result of the assignment, for people and for later steps of the run."
    )


class ListAssignments(Page):
    """Assignments by id. Each field that is given has to match."""

    assignee: Text | None = Field(default=None, description="Only assignments of this assignee; null for all.")
    status: Text | None = Field(
        default=None, description="Only assignments of this status, such as `open` or `completed`; null for all."
    )
    run_id: Id | None = Field(default=None, description="Only assignments of this run; null for all.")
    key: Key | None = Field(default=None, description=_OF_WORKFLOW)
    newest_first: bool = Field(default=False, description="Whether the newest assignment comes first.")

    def filter(self) -> dict[str, str]:
        """Return the fields that documents have to match."""
        return _given(assignee=self.assignee, status=self.status, run_id=self.run_id, workflow_key=self.key)


class AssignmentView(Output):
    """An assignment. `status` is `open`, `completed`, or `cancelled` with the run that waited for it; or another one
    that the host has written to the collection."""

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
    """A trigger of a workflow: `{"type": "event", …}` or `{"type": "schedule", …}`."""

    key: Key
    trigger: Annotated[dict[str, JsonValue], SchemaOf(Trigger)] = Field(
        description="The events or the schedule that start runs."
    )


class TriggerReference(Input):
    """One trigger."""

    trigger_id: Id = Field(description="The id of the trigger.")


class ListTriggers(Page):
    """Triggers by id: all, or those of a workflow."""

    key: Key | None = Field(default=None, description=_OF_WORKFLOW)


class TriggerView(Output):
    """A trigger. With `from_definition`, the active version of the workflow defines it."""

    id: str
    workflow_key: str
    status: TriggerStatus
    trigger: Annotated[dict[str, Any], SchemaOf(Trigger)]
    from_definition: bool
    created_at: datetime
    updated_at: datetime


# Executors


class RunCursor(Output):
    """The position of a run, for its executor.

    `dispatch` counts the executions of the run, `description` describes its step, and `approval_id` is the approval
    that it waits for.
    """

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

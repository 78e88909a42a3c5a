"""Inputs and outputs of the services of workflows."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, Field, JsonValue

from actionengine.schemas.json_schemas import SchemaExtra, SchemaOf
from actionengine.schemas.models import Description, ErrorDict, Id, Input, Name, Output, Page, Title
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

    key: str = Field(description="The key of the workflow.")
    version: int = Field(description="The version.")
    name: str = Field(description="The name.")
    description: str = Field(description="The purpose of the workflow.")
    status: WorkflowStatus = Field(description="The status: an active version starts runs.")
    definition: Annotated[dict[str, Any], SchemaOf(Definition)] = Field(
        description="The steps of the workflow, as they were written."
    )
    defined_by: str = Field(description="The actor that defined it, as type:id.")
    created_at: datetime = Field(description="The time of its definition, in UTC.")


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
    newest_first: bool = Field(default=False, description="True if the newest run comes first.")

    def filter(self) -> dict[str, str]:
        """Return the fields that documents have to match."""
        return _given(workflow_key=self.key, status=self.status)


class PurgeRuns(Input):
    """Runs that ended before a time, and their steps: at most `limit` runs at once."""

    ended_before: AwareDatetime = Field(description="The time before which the runs ended, in ISO 8601 with an offset.")
    limit: int = Field(default=100, ge=1, le=1000, description="The most runs to remove.")


class Purged(Output):
    """The number of removed runs, and whether there are more."""

    runs: int = Field(description="The number of removed runs.")
    has_more: bool = Field(description="True if more runs can be removed.")


class RunSummary(Output):
    """A run without its steps.

    `step` is the one that comes next, or that the run is paused at; None once it has ended. `position` is the number of
    steps that it has taken. `error` is the reason for which it is paused or has failed. `on_behalf_of` names the actors
    for whom the workflow acts (`type:id`), the nearest first: a starter that acts for others, and these.
    """

    id: str = Field(description="The id of the run.")
    workflow_key: str = Field(description="The key of the workflow.")
    workflow_version: int = Field(description="The version of the workflow.")
    status: RunStatus = Field(description="The status of the run.")
    step: str | None = Field(description="The step that comes next or that it is paused at; null once it has ended.")
    position: int = Field(description="The number of steps that it has taken.")
    paused_for: PausedFor | None = Field(description="The thing that a paused run waits for.")
    approval_id: str | None = Field(description="The approval that it waits for.")
    assignment_id: str | None = Field(description="The assignment that it waits for.")
    error: ErrorDict | None = Field(description="The reason for which it is paused or has failed.")
    input: dict[str, Any] = Field(description="The input of the run.")
    started_by: str = Field(description="The actor that started it, as type:id.")
    on_behalf_of: tuple[str, ...] = Field(
        default=(),
        description="The actors for whom it acts, as type:id, the nearest first: a starter that acts for others, and "
        "these.",
    )
    trigger_id: str | None = Field(description="The trigger that started it.")
    created_at: datetime = Field(description="The time of its start, in UTC.")
    updated_at: datetime = Field(description="The time of its last step, in UTC.")
    ended_at: datetime | None = Field(description="The time of its end, in UTC; null before.")


class StepRecord(Output):
    """A step that a run has taken. `action_id` is its execution in the action log."""

    position: int = Field(description="The number of steps before it.")
    step: str = Field(description="The name of the step.")
    type: str = Field(description="The type of the step.")
    status: StepStatus = Field(description="The status of the step.")
    output: Any = Field(description="The output of the step.")
    error: ErrorDict | None = Field(description="The error of a step that failed.")
    action_id: str = Field(description="Its execution in the action log.")
    ended_at: datetime = Field(description="The time of its end, in UTC.")


class Run(RunSummary):
    """A run with its steps in their order; of more than a thousand, the newest thousand."""

    steps: tuple[StepRecord, ...] = Field(description="The steps that it has taken, in their order.")


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
    newest_first: bool = Field(default=False, description="True if the newest assignment comes first.")

    def filter(self) -> dict[str, str]:
        """Return the fields that documents have to match."""
        return _given(assignee=self.assignee, status=self.status, run_id=self.run_id, workflow_key=self.key)


class AssignmentView(Output):
    """An assignment. `status` is `open`, `completed`, or `cancelled` with the run that waited for it; or another one
    that the host has written to the collection."""

    id: str = Field(description="The id of the assignment.")
    assignee: str = Field(description="The person or the group that has it.")
    title: str = Field(description="The title.")
    details: dict[str, Any] = Field(description="Further data of the assignment.")
    run_id: str = Field(max_length=200, description="The id of the run.")
    workflow_key: str = Field(description="The key of the workflow.")
    step: str = Field(description="The step that gave it.")
    status: str = Field(description="The status: `open`, `completed`, `cancelled`, or another one of the host's.")
    result: dict[str, Any] | None = Field(default=None, description="The result; null before it is completed.")
    completed_by: str | None = Field(default=None, description="The actor that completed it, as type:id.")
    completed_at: datetime | None = Field(default=None, description="The time of its completion, in UTC.")
    created_at: datetime = Field(description="The time of its creation, in UTC.")


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

    id: str = Field(description="The id of the trigger.")
    workflow_key: str = Field(description="The key of the workflow.")
    status: TriggerStatus = Field(description="The status.")
    trigger: Annotated[dict[str, Any], SchemaOf(Trigger)] = Field(
        description="The events or the schedule that start runs."
    )
    from_definition: bool = Field(description="True if the active version of the workflow defines it.")
    created_at: datetime = Field(description="The time of its creation, in UTC.")
    updated_at: datetime = Field(description="The time of its last change, in UTC.")


# Executors


class RunCursor(Output):
    """The position of a run, for its executor.

    `dispatch` counts the executions of the run, `description` describes its step, and `approval_id` is the approval
    that it waits for.
    """

    run_id: str = Field(description="The id of the run.")
    workflow_key: str = Field(description="The key of the workflow.")
    status: RunStatus = Field(description="The status of the run.")
    step: str | None = Field(description="The step that comes next; null once it has ended.")
    position: int = Field(description="The number of steps that it has taken.")
    dispatch: int = Field(description="The number of executions of the run.")
    retry_attempts: int = Field(default=1, description="The most attempts at the step.")
    retry_seconds: float = Field(default=0.0, description="The delay before the second attempt, in seconds.")
    description: str | None = Field(default=None, description="The description of the step.")
    approval_id: str | None = Field(default=None, description="The approval that it waits for.")

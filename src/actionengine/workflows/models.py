"""What the services of workflows take and give."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from actionengine.changes.models import Description, Input, Output, Page, Title
from actionengine.changes.ops import Name

WorkflowStatus = Literal["draft", "active", "retired"]
RunStatus = Literal["running", "paused", "succeeded", "failed", "cancelled"]
StepStatus = Literal["succeeded", "failed", "rejected"]
PausedFor = Literal["approval", "failure"]
TriggerStatus = Literal["active", "disabled"]


def _key(key: str) -> str:
    if "/" in key or "." in key:
        raise ValueError("the key of a workflow has no dot and no slash in it")
    return key


Key = Annotated[Name, AfterValidator(_key)]


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

    run_id: str


class CancelRun(Input):
    """One run, and why it is to end."""

    run_id: str
    reason: str | None = Field(default=None, max_length=2000)


class ListRuns(Page):
    """Runs, by id, oldest first; of a workflow, or of a status, or all."""

    key: Key | None = None
    status: RunStatus | None = None


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
    error: dict[str, Any] | None
    input: dict[str, Any]
    started_by: str
    trigger_id: str | None
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None


class StepTaken(Output):
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

    steps: tuple[StepTaken, ...]


# Triggers


class CreateTrigger(Input):
    """What starts runs of a workflow: `{"type": "event", …}` or `{"type": "schedule", …}`."""

    key: Key
    trigger: dict[str, JsonValue]


class TriggerReference(Input):
    """One trigger."""

    trigger_id: str


class ListTriggers(Page):
    """Triggers, by id; of a workflow, or all."""

    key: Key | None = None


class TriggerView(Output):
    """A trigger. `from_definition` says that it came with its workflow, whose next version replaces it."""

    id: str
    workflow_key: str
    status: TriggerStatus
    trigger: dict[str, Any]
    from_definition: bool
    created_at: datetime
    updated_at: datetime


# What steps tell each other


class RunPoint(BaseModel):
    """Where a run is, for its driver. `turn` counts how often it was set going, `about` is what its step is for."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    workflow_key: str
    status: RunStatus
    step: str | None
    position: int
    turn: int
    retry_attempts: int = 1
    retry_seconds: float = 0.0
    about: str | None = None
